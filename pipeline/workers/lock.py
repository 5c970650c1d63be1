"""Lets one process of this project at a time run trials."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.common.files import project_root, remove
from pipeline.workers.work import FINISHED_TRIALS

TRIALS_LOCK = Path(".dvc/tmp/trials.lock")  # in the project, not in an experiment's copy of it


@contextmanager
def alone_with_trials() -> Iterator[None]:
    """Let one process of this project at a time run trials, experiments in folders of their own included: it uses every core.

    What a killed process has half-written among the results of this folder is cleared.
    """
    path = project_root() / TRIALS_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
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
