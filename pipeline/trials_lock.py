"""Lets one process of this project at a time run trials."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.atomic import remove
from pipeline.trial_result import FINISHED_TRIALS

TRIALS_LOCK = Path(".dvc/tmp/trials.lock")


@contextmanager
def alone_with_trials() -> Iterator[None]:
    """Let one process of this project at a time run trials: it uses every core, and its results share a folder.

    What a killed process has half-written there is cleared.
    """
    TRIALS_LOCK.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(TRIALS_LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print("waiting for another process that runs trials of this project", flush=True)
        lock.acquire()
    try:
        for half_written in FINISHED_TRIALS.glob(".*.part"):
            remove(half_written)
        yield
    finally:
        lock.release()
