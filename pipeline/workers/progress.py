"""One progress display for a set of trials: a bar with the time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from pipeline.training.config import TrialConfig
from pipeline.workers.events import EpochEnded, Event, Finished, Interrupted, Started

SECONDS_BETWEEN_LINES = 15


class TrialProgress(Progress):
    """Shows the events of trials, given by key; those of `ahead` count from when they are taken up."""

    def __init__(self, names: Mapping[str, str], trials: Mapping[str, TrialConfig], ahead: Mapping[str, TrialConfig]) -> None:
        self._names = names
        self._epochs = {key: config.total_epochs for key, config in {**ahead, **trials}.items()}
        self._epochs_done = dict.fromkeys(trials, 0)
        self._done, self._total = 0, sum(self._epochs[key] for key in trials)  # epochs of all trials: there may be very many
        self._trials_finished, self._began = 0, 0.0
        self._printed = time.monotonic()
        console = Console(highlight=False, soft_wrap=True)
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "epochs", TimeElapsedColumn(), "left", TimeRemainingColumn())
        super().__init__(*columns, console=console, disable=not console.is_terminal)
        self._bar = self.add_task(self._description(), total=self._total)

    def show(self, event: Event) -> None:
        """Bring the display up to date."""
        match event:
            case Started(key):
                self._set_epochs_done(key, 0)
                self._began = self._began or time.monotonic()  # the workers' own start says nothing about the time left
            case EpochEnded(key, metrics):
                self._set_epochs_done(key, int(metrics["epoch"]))
                # Off a terminal there is no bar; a line every so often shows that work goes on.
                if self.disable and time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
                    self._printed = time.monotonic()
                    self.console.print(f"{self._description()}, {self._done}/{self._total} epochs{self._time_left()}")
            case Finished(key):
                self._trials_finished += 1
                self._set_epochs_done(key, self._epochs[key])
                self.console.print(f"{self._names[key]} finished ({self._description()}){self._time_left()}")
            case Interrupted(key, reason, gives_up):
                self._set_epochs_done(key, 0)
                self.console.print(f"{self._names[key]}: {reason}; {'giving up' if gives_up else 'starting it again'}")
        self.update(self._bar, completed=self._done, total=self._total, description=self._description())

    def _set_epochs_done(self, key: str, epochs: int) -> None:
        if key not in self._epochs_done:  # one of those ahead
            self._total += self._epochs[key]
        self._done += epochs - self._epochs_done.get(key, 0)
        self._epochs_done[key] = epochs

    def _description(self) -> str:
        return f"{self._trials_finished}/{len(self._epochs_done)} trials"

    def _time_left(self) -> str:
        if not self.disable or self._done in (0, self._total):
            return ""
        seconds = (time.monotonic() - self._began) * (self._total - self._done) / self._done
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"
