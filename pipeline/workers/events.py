"""What happens to trials while they are executed."""

from dataclasses import dataclass

from pipeline.training.result import TrialResult


@dataclass(frozen=True)
class Started:
    """A worker on this host began the trial."""

    key: str
    host: str


@dataclass(frozen=True)
class EpochEnded:
    """One epoch's metrics, and how many seconds it took with its evaluation, if that is known."""

    key: str
    metrics: dict[str, float]
    seconds: float | None


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
