"""What happens to trials while they are executed, as their runner tells it."""

from dataclasses import dataclass

from pipeline.training.result import TrialResult


@dataclass(frozen=True)
class Started:
    """A worker on this host took the trial up."""

    key: str
    host: str


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
