"""Worker processes on this machine: one core and one thread each, TensorFlow imported once for all."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import tempfile
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import joblib
import psutil
from pebble import ProcessExpired, ProcessPool

from pipeline.common.errors import PipelineError
from pipeline.images.arrays import load_examples
from pipeline.training.config import TrialConfig
from pipeline.workers.events import EpochEnded, Event, Finished, Interrupted, Started
from pipeline.workers.work import result_of, work

POLL_SECONDS = 0.2
WORKERS_VARIABLE = "TRIAL_WORKERS"
TEMPORARY_FOLDER = ".batch-norm-{}-"  # and some random characters
# The path of a socket has at most 107: that of a temporary folder and Python's own names in it take up to 61.
LONGEST_PLACE = 46


def worker_count() -> int:
    """Number of worker processes: TRIAL_WORKERS, or the cores this process may use (affinity and cgroup limits count).

    Raises:
        PipelineError: TRIAL_WORKERS is not a positive whole number.
    """
    asked = os.environ.get(WORKERS_VARIABLE)
    if asked is None:
        return int(joblib.cpu_count())
    if not asked.isdecimal() or int(asked) == 0:
        raise PipelineError(f"{WORKERS_VARIABLE}: should be a positive whole number (got {asked!r}); unset it to use every core")
    return int(asked)


class LocalPool:
    """Worker processes on the cores of this machine.

    Args:
        trials: How many trials there will be; no more processes are started.
        processed: The folder of the processed data.
        results: The folder for the results of trials.
    """

    def __init__(self, trials: int, processed: Path, results: Path) -> None:
        # Absolute: the fork server stays in the folder where it started.
        self._processed, self._results = processed.resolve(), results.resolve()
        self._context = _warm_context()
        self._receiver, self._sender = self._context.Pipe(duplex=False)
        self.workers = min(worker_count(), max(1, trials))
        self._pool = self._open_pool()
        self._pending: dict[Future[None], tuple[str, TrialConfig, int]] = {}  # key, configuration and attempts

    def submit(self, key: str, config: TrialConfig, attempts: int) -> None:
        """Execute a trial, and again when its worker has died, so many times in all."""
        if not self._pool.active:  # a worker died before it had begun a trial
            self._pool = self._open_pool()
        future = self._pool.schedule(_execute, args=[key, config, self._processed, self._results])
        self._pending[future] = key, config, attempts

    def next_events(self) -> list[Event]:
        """Wait a moment for something to happen, and return all that has, in order."""
        # Looked up before the pipe is read, so that a trial's events come before its end.
        ended = [future for future in self._pending if future.done()]
        events: list[Event] = []
        while self._receiver.poll(0 if ended or events else POLL_SECONDS):
            events.append(self._receiver.recv())
        return events + [self._end_of(future) for future in ended]

    def close(self) -> None:
        """Stop the workers."""
        self._pool.stop()
        self._pool.join()
        self._sender.close()
        self._receiver.close()

    def _end_of(self, future: Future[None]) -> Event:
        key, config, attempts = self._pending.pop(future)
        try:
            future.result()
            return Finished(key, result_of(key, self._results))
        except ProcessExpired as death:
            reason = f"its worker died with exit code {death.exitcode}"
        except BrokenProcessPool:
            reason = "a worker died before it began"
        if attempts > 1:
            self.submit(key, config, attempts - 1)
        return Interrupted(key, reason, gives_up=attempts == 1)

    def _open_pool(self) -> ProcessPool:
        return ProcessPool(self.workers, context=self._context, initializer=_prepare_worker, initargs=[self._sender])


def call_in_worker(function: Any, *arguments: Any) -> Any:  # noqa: ANN401 - passes on what the function takes and gives
    """Call a function in a process that computes deterministically, with TensorFlow imported, and return what it returns."""
    with ProcessPool(1, context=_warm_context(), initializer=_prepare_worker, initargs=[None]) as pool:
        return pool.schedule(function, args=arguments).result()


def warm_up() -> None:
    """Begin to import TensorFlow in the fork server, without waiting for it."""
    _warm_context()
    forkserver.ensure_running()


def _warm_context() -> ForkServerContext:
    # TensorFlow takes seconds to import: the fork server imports it once, and its children start with it.
    # It finds modules by its environment alone, not by this process's path, and passes over those that it does not find.
    here, path = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")
    if here not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = f"{here}{os.pathsep}{path}".rstrip(os.pathsep)
    _keep_temporary_files_together()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.training.quiet_tensorflow", "pipeline.training.trial"])
    return context


@cache
def _keep_temporary_files_together() -> None:
    """Give this process and its workers a folder for temporary files, and clear those of processes that were killed.

    Workers leave TensorFlow's generated code there, since they end without Python's exit.
    """
    inherited = Path(tempfile.gettempdir())
    # Within that of the process that started this one, the paths of sockets would grow too long: put it beside.
    place = inherited.parent if inherited.name.startswith(TEMPORARY_FOLDER.split("{", maxsplit=1)[0]) else inherited
    if len(os.fsencode(place)) > LONGEST_PLACE:
        place = Path("/tmp")  # noqa: S108 - mkdtemp makes a private folder in it
    for left in place.glob(TEMPORARY_FOLDER.format("*") + "*"):
        process = re.fullmatch(TEMPORARY_FOLDER.format(r"(\d+)") + ".*", left.name)
        if process is not None and not psutil.pid_exists(int(process[1])):
            shutil.rmtree(left, ignore_errors=True)  # another user's, or being cleared by another process
    folder = tempfile.mkdtemp(prefix=TEMPORARY_FOLDER.format(os.getpid()), dir=place)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    Finalize(None, shutil.rmtree, [folder], exitpriority=-101)  # -100 clears the fork server's own folder in it


_events: Connection | None = None


def _prepare_worker(events: Connection | None) -> None:
    from pipeline.training import settings

    global _events
    _events = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the driver stops its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    settings.compute_deterministically()


def _execute(key: str, config: TrialConfig, processed: Path, results: Path) -> None:
    work(key, config, load_examples("train", processed), load_examples("validation", processed), results, _send)


def _send(event: Started | EpochEnded) -> None:
    # A message fits into what a pipe takes whole (4096 bytes), so workers need no lock that one could die holding.
    # When the driver is gone the pipe is broken, and the worker ends here instead of training for nobody.
    if _events is not None:
        _events.send(event)
