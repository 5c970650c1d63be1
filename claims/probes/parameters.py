"""The sections `timing` and `mechanisms` of claims/params.yaml."""

from typing import Annotated

from pydantic import Field

from pipeline.common.parameters import Sections, StrictModel
from pipeline.trials.studies import Seed

FEWEST_BLOCKS = 8  # of which a bootstrap interval can be taken


class Timing(StrictModel):
    """How training steps are timed."""

    blocks: int = Field(ge=FEWEST_BLOCKS, le=10_000)
    steps_per_leg: int = Field(ge=1, le=100_000)


class Mechanisms(StrictModel):
    """How the inside of the networks is probed."""

    seed: Seed
    epochs: int = Field(ge=1, le=1000)
    images: int = Field(ge=2, le=1_000_000)
    steps: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    batch_sizes: list[Annotated[int, Field(ge=2, le=1_000_000)]] = Field(min_length=1)


class TimingSection(Sections):
    """What the stage `timing` reads of claims/params.yaml."""

    timing: Timing


class MechanismsSection(Sections):
    """What the stage `mechanisms` reads of claims/params.yaml."""

    mechanisms: Mechanisms
