"""Executes trials on workers, on this machine or on a cluster, and tells what happens to them as it happens."""

from collections import deque
from collections.abc import Collection, Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

from pipeline.common.errors import PipelineError
from pipeline.images.arrays import PROCESSED
from pipeline.training.config import TrialConfig
from pipeline.trials.parameters import RunnerName
from pipeline.workers.events import EpochEnded, Event, Finished, Interrupted
from pipeline.workers.local import LocalWorkers
from pipeline.workers.work import FINISHED_TRIALS, Assignment

ATTEMPTS = 3
TAKEN_UP_PER_WORKER = 2  # so that a worker that ends a trial finds the next one waiting


class Crew(Protocol):
    """Workers, and the trials that they have taken up."""

    @property
    def workers(self) -> int:
        """How many trials can be executed at once, at present; at least 1."""

    def take_up(self, assignment: Assignment) -> None:
        """Have a trial executed as soon as a worker is free, and again if its worker dies, as often as the assignment says."""

    def next_events(self) -> list[Event]:
        """Wait a moment for something to happen, and give all that has, in order."""

    def close(self) -> None:
        """Stop what is under way."""


def run_trials(
    trials: Mapping[str, TrialConfig],
    processed: Path = PROCESSED,
    results: Path = FINISHED_TRIALS,
    *,
    ahead: Mapping[str, TrialConfig] | None = None,
    names: Mapping[str, str] | None = None,
    runner: RunnerName = "local",
) -> Generator[list[Event], None, None]:
    """Run the trials, given by key, each in one thread of a worker, and yield what happens until all have ended.

    All that has happened since the last time comes at once, in order: who is slow to write it down can take it together.

    Workers that would be idle meanwhile take up trials of `ahead`, in order, as long as one of `trials` has more than half
    as much before it, and finish what they took up.

    A trial whose worker dies is run again, up to three times in all, but not one of `ahead`; the others are not disturbed.
    Closing the iterator stops the workers.

    Raises:
        PipelineError: the cluster cannot be used; or after all others have finished, if one of `trials` lost its worker
            every time; it is named by its key, or as `names` says.
    """
    with closing(_open_crew(runner, len(trials) + len(ahead or {}), processed, results)) as crew:
        yield from run_trials_on(crew, trials, ahead=ahead, names=names)


def run_trials_on(
    crew: Crew, trials: Mapping[str, TrialConfig], *, ahead: Mapping[str, TrialConfig] | None = None, names: Mapping[str, str] | None = None
) -> Generator[list[Event], None, None]:
    """Run the trials on workers that are there already; see `run_trials`."""
    failed: list[str] = []
    work = _Work(crew, trials, ahead or {})
    while work.hand_out():
        events = crew.next_events()
        work.note(events)
        if events:
            yield events
        gone = [event for event in events if isinstance(event, Interrupted) and event.gives_up and event.key in trials]
        failed += [f"{(names or {}).get(event.key, event.key)} ({event.reason})" for event in gone]
    if failed:
        raise PipelineError(f"gave up after {ATTEMPTS} attempts each: trial {', trial '.join(failed)}; the other trials are kept")


def _open_crew(runner: RunnerName, trials: int, processed: Path, results: Path) -> Crew:
    if runner == "ray":
        from pipeline.cluster.ray_cluster import RayCluster  # here, since Ray is an extra

        return RayCluster(processed, results)
    return LocalWorkers(trials, processed, results)


class _Work:
    """Which trials wait, and which a crew has taken up."""

    def __init__(self, crew: Crew, trials: Mapping[str, TrialConfig], ahead: Mapping[str, TrialConfig]) -> None:
        self._crew = crew
        self._configs = {**ahead, **trials}
        self._own: Collection[str] = trials
        self._waiting = deque(trials)
        self._ahead = [key for key in ahead if key not in trials]
        self._epochs_done: dict[str, int] = {}  # of the trials that were taken up and have not ended

    def hand_out(self) -> bool:
        """Let the crew take up what it has room for; False once nothing is left to wait for."""
        workers = self._crew.workers
        while self._waiting and len(self._epochs_done) < TAKEN_UP_PER_WORKER * workers:
            self._hand_out(self._waiting.popleft(), ATTEMPTS)
        if not self._waiting:
            self._hand_out_ahead(workers)
        return bool(self._epochs_done)

    def note(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, EpochEnded):
                self._epochs_done[event.key] = int(event.metrics["epoch"])
            elif isinstance(event, Finished) or (isinstance(event, Interrupted) and event.gives_up):
                del self._epochs_done[event.key]
            elif isinstance(event, Interrupted):
                self._epochs_done[event.key] = 0

    def _hand_out_ahead(self, workers: int) -> None:
        """Hand out trials ahead: with fewer steps left, the others would soon wait for this one."""
        room = workers - len(self._epochs_done)
        if room <= 0:
            return
        left = max((self._steps_left(key) for key in self._epochs_done if key in self._own), default=0.0)
        for key in [key for key in self._ahead if self._steps_left(key) < 2 * left][:room]:
            self._ahead.remove(key)
            self._hand_out(key, attempts=1)

    def _hand_out(self, key: str, attempts: int) -> None:
        self._epochs_done[key] = 0
        self._crew.take_up(Assignment(key, self._configs[key], attempts))

    def _steps_left(self, key: str) -> float:
        """Number of steps, up to a factor that all trials share: the number of training examples."""
        return (self._configs[key].total_epochs - self._epochs_done.get(key, 0)) / self._configs[key].batch_size
