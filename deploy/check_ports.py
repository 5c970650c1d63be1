"""Sees that ports can be listened on, all at once: python check_ports.py NAME HOST PORT [NAME HOST PORT ...]."""

import socket
import sys
from contextlib import ExitStack


def main(arguments: list[str]) -> None:
    """Listen on each, and let go again.

    Raises:
        SystemExit: one cannot be listened on; it is named by its variable.
    """
    with ExitStack() as stack:
        for name, host, port in zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True):
            try:
                family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
                    0
                ]
                listening = stack.enter_context(socket.socket(family, kind, protocol))
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(address)
                listening.listen()
            except (OSError, OverflowError, ValueError) as error:
                sys.exit(f"error: {name}: {host} port {port} cannot be used ({error}); choose another")


if __name__ == "__main__":
    main(sys.argv[1:])
