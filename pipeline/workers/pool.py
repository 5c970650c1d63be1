"""A pool of workers, wherever they run, and how trials are handed out to one."""

from collections import deque
from collections.abc import Generator, Mapping
from typing import Protocol

from pipeline.common.errors import PipelineError
from pipeline.training.config import TrialConfig
from pipeline.workers.events import EpochEnded, Event, Finished, Interrupted

ATTEMPTS = 3
ASSIGNMENTS_PER_WORKER = 2  # so that a worker that ends a trial finds the next one waiting


class WorkerPool(Protocol):
    """Workers, and the trials that were submitted to them."""

    @property
    def workers(self) -> int:
        """How many trials can be executed at once, at present; at least 1."""

    def submit(self, key: str, config: TrialConfig, attempts: int) -> None:
        """Execute a trial as soon as a worker is free, and again whenever its worker dies of it, so many times in all."""

    def next_events(self) -> list[Event]:
        """Wait a moment for something to happen, and return all that has, in order."""

    def close(self) -> None:
        """Stop what is under way."""


def run_trials(
    pool: WorkerPool,
    trials: Mapping[str, TrialConfig],
    *,
    ahead: Mapping[str, TrialConfig] = {},
    names: Mapping[str, str] = {},
) -> Generator[list[Event], None, None]:
    """Run trials, given by key, and yield their events until all have ended.

    All events since the last time come at once, in order, so that a slow reader can log them together.

    Workers that would be idle take up trials of `ahead`, in order, as long as one of `trials` has more than half as much
    before it, and finish what they took up. A trial whose worker dies is run again, up to three times in all, but not one of
    `ahead`.

    Raises:
        PipelineError: After all others have finished, if one of `trials` lost its worker every time. It is named by its key,
            or as `names` says.
    """
    configs = {**ahead, **trials}
    waiting, waiting_ahead = deque(trials), [key for key in ahead if key not in trials]
    epochs_done: dict[str, int] = {}  # of the trials that were submitted and have not ended
    failed: list[str] = []

    def steps_left(key: str) -> float:
        """Number of steps, up to a factor that all trials share: the number of training examples."""
        return (configs[key].total_epochs - epochs_done.get(key, 0)) / configs[key].batch_size

    def submit(key: str, attempts: int) -> None:
        epochs_done[key] = 0
        pool.submit(key, configs[key], attempts)

    while waiting or epochs_done:
        workers = pool.workers
        while waiting and len(epochs_done) < ASSIGNMENTS_PER_WORKER * workers:
            submit(waiting.popleft(), ATTEMPTS)
        idle = workers - len(epochs_done)
        if not waiting and idle > 0:
            # A trial with more steps than this would make the others wait for it.
            longest = max((steps_left(key) for key in epochs_done if key in trials), default=0.0)
            for key in [key for key in waiting_ahead if steps_left(key) < 2 * longest][:idle]:
                waiting_ahead.remove(key)
                submit(key, attempts=1)
        if not epochs_done:
            break
        events = pool.next_events()
        for event in events:
            match event:
                case EpochEnded(key, metrics):
                    epochs_done[key] = int(metrics["epoch"])
                case Finished(key):
                    del epochs_done[key]
                case Interrupted(key, reason, gives_up):
                    epochs_done[key] = 0
                    if gives_up:
                        del epochs_done[key]
                        failed += [f"{names.get(key, key)} ({reason})"] if key in trials else []
        if events:
            yield events
    if failed:
        raise PipelineError(f"gave up after {ATTEMPTS} attempts each: trial {', trial '.join(failed)}; the other trials are kept")
