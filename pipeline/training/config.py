"""What describes a trial, and what each value may be."""

import math
from typing import Annotated, Literal

from pydantic import Field

from pipeline.training.network import NetworkConfig

Seed = Annotated[int, Field(ge=0, lt=2**32)]
BatchSize = Annotated[int, Field(ge=1, le=1_000_000)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(NetworkConfig):
    """The network and how it is trained and measured: everything about a trial but its seed."""

    optimizer: Literal["adam", "sgd"]
    learning_rate: float = Field(gt=0, le=1e6)
    learning_rate_schedule: Literal["constant", "cosine", "exponential"]
    learning_rate_decay: float = Field(gt=0, le=1)
    sgd_momentum: Momentum
    weight_decay: float = Field(ge=0, le=1)
    batch_size: BatchSize
    earlier_batch_sizes: list[BatchSize] = Field(max_length=64)
    epochs: int = Field(ge=1, le=100_000)
    training_images: Annotated[int, Field(ge=1)] | Literal["all"]
    further_momentums: list[Momentum] = Field(max_length=16)
    recalibration_images: list[Annotated[int, Field(ge=2)]] = Field(max_length=16)

    @property
    def total_epochs(self) -> int:
        """Epochs at the earlier batch sizes and at the last."""
        return self.epochs * (len(self.earlier_batch_sizes) + 1)

    @property
    def epoch_batch_sizes(self) -> list[int]:
        """The batch size of each epoch."""
        return [size for size in (*self.earlier_batch_sizes, self.batch_size) for _ in range(self.epochs)]

    def total_updates(self, examples: int) -> int:
        """Return the number of weight updates in the whole trial."""
        return sum(updates_per_epoch(examples, size) for size in self.epoch_batch_sizes)


class TrialConfig(TrainingConfig):
    """One training run, wholly described: its result depends on this and the data alone."""

    seed: Seed


def updates_per_epoch(examples: int, batch_size: int) -> int:
    """Return the number of weight updates in an epoch. The last batch may be smaller, as in Keras."""
    return math.ceil(examples / batch_size)
