"""Executes trials on the cores of this machine, and tells what happens to them as it happens."""

import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Generator, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import psutil
from pebble import ProcessExpired, ProcessPool

from pipeline.dataset import PROCESSED, load_examples
from pipeline.errors import PipelineError
from pipeline.trial_config import TrialConfig
from pipeline.trial_result import FINISHED_TRIALS, TrialResult, result_of, save_result

ATTEMPTS = 3
POLL_SECONDS = 0.2
WORKERS_VARIABLE = "TRIAL_WORKERS"
TEMPORARY_FOLDER = ".batch-norm-{}-"  # and some random characters; short, since the path of a socket has at most 107


@dataclass(frozen=True)
class Started:
    """A worker took the trial up."""

    key: str


@dataclass(frozen=True)
class EpochEnded:
    """One epoch's metrics, and how long it took with its evaluation."""

    key: str
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Finished:
    """The trial's result is on disk."""

    key: str
    result: TrialResult


@dataclass(frozen=True)
class Interrupted:
    """The trial's worker died; the trial is tried again unless `gives_up`."""

    key: str
    reason: str
    gives_up: bool


Event = Started | EpochEnded | Finished | Interrupted


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


def run_trials(
    trials: Mapping[str, TrialConfig],
    processed: Path = PROCESSED,
    results: Path = FINISHED_TRIALS,
    *,
    ahead: Mapping[str, TrialConfig] | None = None,
    names: Mapping[str, str] | None = None,
) -> Generator[Event, None, None]:
    """Run the trials, given by key, each in one thread of a worker process, and yield events until all have ended.

    Workers that would be idle meanwhile take up trials of `ahead`, in order, as long as one of `trials` has more than half
    as much before it, and finish what they took up.

    A trial whose worker dies is run again, up to three times in all, but not one of `ahead`; the others are not disturbed.
    Closing the iterator stops the workers.

    Raises:
        PipelineError: after all others have finished, if one of `trials` lost its worker every time; it is named by its
            key, or as `names` says.
    """
    known = {**(ahead or {}), **trials}
    waiting = [key for key in known if key not in trials]
    attempts = {key: ATTEMPTS if key in trials else 1 for key in known}
    failed: list[str] = []
    with closing(_Crew(known, attempts, processed.resolve(), results.resolve())) as crew:
        for key in trials:
            crew.take_up(key)
        while crew.busy:
            while crew.has_idle_worker and (fitting := [key for key in waiting if crew.has_time_for(key, trials)]):
                waiting.remove(fitting[0])
                crew.take_up(fitting[0])
            event = crew.next_event()
            if event is not None:
                yield event
            if isinstance(event, Interrupted) and not event.gives_up:
                crew.take_up(event.key)
            elif isinstance(event, Interrupted) and event.key in trials:
                failed.append(f"{(names or {}).get(event.key, event.key)} ({event.reason})")
    if failed:
        raise PipelineError(f"gave up after {ATTEMPTS} attempts each: trial {', trial '.join(failed)}; the other trials are kept")


class _Crew:
    """Worker processes and the trials that they have taken up."""

    def __init__(self, trials: Mapping[str, TrialConfig], attempts: Mapping[str, int], processed: Path, results: Path) -> None:
        self._trials = trials
        self._attempts_left = Counter(attempts)
        self._folders = processed, results  # absolute: the fork server stays in the folder where it started
        self._context = _warm_context()
        self._receiver, self._sender = self._context.Pipe(duplex=False)
        self._workers = min(worker_count(), max(1, len(trials)))
        self._pool = self._open_pool()
        self._pending: dict[Future[None], str] = {}
        self._epochs_done = Counter[str]()

    @property
    def busy(self) -> bool:
        return bool(self._pending)

    @property
    def has_idle_worker(self) -> bool:
        return len(self._pending) < self._workers

    def has_time_for(self, key: str, others: Collection[str]) -> bool:
        """Whether one of the others has more than half as many steps before it: with fewer, they would soon wait for this one."""
        return any(2 * self._steps_left(other) > self._steps_left(key) for other in self._pending.values() if other in others)

    def _steps_left(self, key: str) -> float:
        """Number of steps, up to a factor that all trials share: the number of training examples."""
        return (self._trials[key].total_epochs - self._epochs_done[key]) / self._trials[key].batch_size

    def take_up(self, key: str) -> None:
        self._attempts_left[key] -= 1
        self._epochs_done[key] = 0
        if not self._pool.active:  # a worker died before it had taken up a trial
            self._pool = self._open_pool()
        self._pending[self._pool.schedule(_work, args=[key, self._trials[key], *self._folders])] = key

    def next_event(self) -> Event | None:
        """Wait a moment for something to happen."""
        # Looked up before the pipe is read, so that a trial's messages are told before its end.
        ended = next((future for future in self._pending if future.done()), None)
        if self._receiver.poll(0 if ended else POLL_SECONDS):
            event: Event = self._receiver.recv()
            if isinstance(event, EpochEnded):
                self._epochs_done[event.key] = int(event.metrics["epoch"])
            return event
        if ended is None:
            return None
        key = self._pending.pop(ended)
        reason = _why_it_died(ended)
        if reason is None:
            return Finished(key, result_of(key, self._folders[1]))
        return Interrupted(key, reason, gives_up=self._attempts_left[key] == 0)

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()
        self._sender.close()
        self._receiver.close()

    def _open_pool(self) -> ProcessPool:
        return ProcessPool(self._workers, context=self._context, initializer=_prepare_worker, initargs=[self._sender])


def call_in_worker(function: Any, *arguments: Any) -> Any:  # noqa: ANN401 - passes on what the function takes and gives
    """Call a function in a process where TensorFlow is already imported, and return what it returns."""
    with ProcessPool(1, context=_warm_context(), initializer=_prepare_worker, initargs=[None]) as pool:
        return pool.schedule(function, args=arguments).result()


def warm_up() -> None:
    """Let the fork server begin to import TensorFlow, and do not wait for it."""
    _warm_context()
    forkserver.ensure_running()


def _warm_context() -> ForkServerContext:
    # TensorFlow takes seconds to import: the fork server imports it once, and its children start with it.
    # It finds modules by its environment alone, not by this process's path, and passes over those that it does not find.
    here, path = str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")
    if here not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = f"{here}{os.pathsep}{path}".rstrip(os.pathsep)
    _keep_temporary_files_together()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.quiet_tensorflow", "pipeline.trial"])
    return context


@cache
def _keep_temporary_files_together() -> None:
    """Give this process and its workers a folder for temporary files, and clear those of processes that were killed.

    Workers leave TensorFlow's generated code there, since they end without Python's exit.
    """
    inherited = Path(tempfile.gettempdir())
    # Within that of the process that started this one, the paths of sockets would grow too long: put it beside.
    place = inherited.parent if inherited.name.startswith(TEMPORARY_FOLDER.split("{", maxsplit=1)[0]) else inherited
    for left in place.glob(TEMPORARY_FOLDER.format("*") + "*"):
        process = re.fullmatch(TEMPORARY_FOLDER.format(r"(\d+)") + ".*", left.name)
        if process is not None and not psutil.pid_exists(int(process[1])):
            shutil.rmtree(left, ignore_errors=True)  # another user's, or being cleared by another process
    folder = tempfile.mkdtemp(prefix=TEMPORARY_FOLDER.format(os.getpid()), dir=place)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    Finalize(None, shutil.rmtree, [folder], exitpriority=-101)  # -100 clears the fork server's own folder in it


def _why_it_died(future: Future[None]) -> str | None:
    try:
        future.result()
    except ProcessExpired as death:
        return f"its worker died with exit code {death.exitcode}"
    except BrokenProcessPool:
        return "a worker died before it began"
    return None


_events: Connection | None = None


def _prepare_worker(events: Connection | None) -> None:
    from pipeline import trial

    global _events
    _events = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the driver stops its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    trial.compute_deterministically()


def _work(key: str, config: TrialConfig, processed: Path, results: Path) -> None:
    from pipeline import trial

    history: list[dict[str, float]] = []
    began = time.perf_counter()

    def on_epoch(metrics: dict[str, float]) -> None:
        nonlocal began
        now = time.perf_counter()
        history.append(metrics)
        _tell(EpochEnded(key, metrics, now - began))
        began = now

    _tell(Started(key))
    model = trial.run_trial(config, load_examples("train", processed), load_examples("validation", processed), on_epoch)
    save_result(result_of(key, results), pd.DataFrame(history), model.save_weights)


def _tell(event: Event) -> None:
    # A message fits into what a pipe takes whole (4096 bytes), so workers need no lock that one could die holding.
    # When the driver is gone the pipe is broken, and the worker ends here instead of training for nobody.
    if _events is not None:
        _events.send(event)
