"""One progress display for a set of trials: a bar with the time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.training.config import TrialConfig
from pipeline.workers.events import EpochEnded, Event, Finished, Interrupted, Started

SECONDS_BETWEEN_LINES = 15


class TrialProgress:
    """Shows the events of trials, given by key; those of `ahead` count from when they are taken up."""

    def __init__(self, names: Mapping[str, str], trials: Mapping[str, TrialConfig], ahead: Mapping[str, TrialConfig]) -> None:
        self._names = names
        self._epochs = {key: config.total_epochs for key, config in {**ahead, **trials}.items()}
        self._epochs_done = dict.fromkeys(trials, 0)
        self._done, self._total = 0, sum(self._epochs[key] for key in trials)  # epochs of all trials: there may be very many
        self._finished = 0
        self._began = 0.0
        self._printed = time.monotonic()
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(self._description(), total=self._total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        """Bring the display up to date."""
        match event:
            case Started(key):
                self._set_epochs_done(key, 0)
                self._began = self._began or time.monotonic()  # the workers' own start says nothing about the time left
            case EpochEnded(key, metrics):
                self._set_epochs_done(key, int(metrics["epoch"]))
                self._print_now_and_then()
            case Finished(key):
                self._finished += 1
                self._set_epochs_done(key, self._epochs[key])
                self._console.print(f"{self._names[key]} finished ({self._description()}){self._time_left()}")
            case Interrupted(key, reason, gives_up):
                self._set_epochs_done(key, 0)
                self._console.print(f"{self._names[key]}: {reason}; {'giving up' if gives_up else 'starting it again'}")
        self._bar.update(self._task, completed=self._done, total=self._total, description=self._description())

    def _set_epochs_done(self, key: str, epochs: int) -> None:
        if key not in self._epochs_done:  # one of those ahead
            self._total += self._epochs[key]
        self._done += epochs - self._epochs_done.get(key, 0)
        self._epochs_done[key] = epochs

    def _description(self) -> str:
        return f"{self._finished}/{len(self._epochs_done)} trials"

    def _print_now_and_then(self) -> None:
        """Off a terminal there is no bar; a line every so often shows that work goes on."""
        if not self._console.is_terminal and time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            self._console.print(f"{self._description()}, {self._done}/{self._total} epochs{self._time_left()}")

    def _time_left(self) -> str:
        if self._console.is_terminal or self._done in (0, self._total):
            return ""
        seconds = (time.monotonic() - self._began) * (self._total - self._done) / self._done
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"
