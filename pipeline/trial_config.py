"""What describes a trial, and what each value may be."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.model import ModelConfig

Seed = Annotated[int, Field(ge=0, lt=2**32)]
BatchSize = Annotated[int, Field(ge=1, le=1_000_000)]


class TrainingConfig(ModelConfig):
    """The model and how it is trained: everything about a trial but its seed."""

    optimizer: Literal["adam", "sgd"]
    learning_rate: float = Field(gt=0, le=1e6)
    batch_size: BatchSize
    earlier_batch_sizes: list[BatchSize] = Field(max_length=64)
    epochs: int = Field(ge=1, le=100_000)
    training_images: Annotated[int, Field(ge=1)] | Literal["all"]

    @property
    def total_epochs(self) -> int:
        """Epochs at the earlier batch sizes and at the last."""
        return self.epochs * (len(self.earlier_batch_sizes) + 1)


class TrialConfig(TrainingConfig):
    """One training run, wholly described: its result depends on this and the data alone."""

    seed: Seed
