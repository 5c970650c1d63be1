"""What describes a trial, and what each value may be."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.model import ModelConfig

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class TrainingConfig(ModelConfig):
    """The model and how it is trained: everything about a trial but its seed."""

    optimizer: Literal["adam", "sgd"]
    learning_rate: float = Field(gt=0, le=1e6)
    batch_size: int = Field(ge=1, le=1_000_000)
    epochs: int = Field(ge=1, le=100_000)


class TrialConfig(TrainingConfig):
    """One training run, wholly described: its result depends on this and the data alone."""

    seed: Seed
