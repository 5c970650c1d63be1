"""Where the project's servers listen: on this machine alone."""

import socket

from pipeline.common.errors import PipelineError

HOST = "127.0.0.1"


def listen(port: int) -> socket.socket:
    """Listen on a port of this machine; who comes before anybody answers waits.

    Raises:
        PipelineError: the port is taken, or is none.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        raise PipelineError(f"--port {port}: cannot be used ({error}); choose another, as in `make ui PORT=5010`") from None
    return listening
