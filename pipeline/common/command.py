"""How every stage starts and ends: one clear line on stderr when something is wrong."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.common.errors import PipelineError


@contextmanager
def interrupted_afterwards() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block has ended; a second one does not wait."""
    came = False

    def remember(_signal: int, _frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, remember) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main` and exit: 0, 1 after a fault that is explained, 130 after Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which raises KeyboardInterrupt
    try:
        main()
        sys.stdout.flush()
    except PipelineError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; what was finished is kept, run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # who reads has seen enough; Python would complain once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            written = error.filename2 or error.filename or "a file"  # of a copy, the second is what was written
            sys.exit(f"error: no space left on the device while writing {written}; free some and run again")
        if isinstance(error, FileNotFoundError) and error.filename is not None:
            sys.exit(f"error: {error.filename}: not found; run `dvc repro` to make what is missing")
        if error.filename is not None:
            sys.exit(f"error: {error.filename}: {error.strerror}; mend that and run again")
        raise
