"""The sections `data` and `split` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.common.parameters import Sections, StrictModel
from pipeline.images.cifar10 import FILES


class Source(StrictModel):
    """Where the data set may come from. `sha256` is the archive's, when it is known."""

    url: str = Field(min_length=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class DataParameters(StrictModel):
    """Where the data comes from and what it must be."""

    sources: list[Source] = Field(min_length=1)
    md5: dict[Literal[FILES], Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]] = Field(  # type: ignore[valid-type]
        min_length=len(FILES)
    )
    attempts: int = Field(ge=1, le=100)
    timeout_seconds: float = Field(gt=0, le=3600)
    maximum_megabytes: int = Field(ge=1, le=100_000)


class SplitParameters(StrictModel):
    """How validation examples are taken from the training set."""

    method: Literal["last", "stratified"]
    validation_fraction: float = Field(gt=0, lt=1)
    seed: int = Field(ge=0, lt=2**32)


class DataSection(Sections):
    """What `fetch` reads of params.yaml."""

    data: DataParameters


class SplitSection(Sections):
    """What `preprocess` reads of params.yaml."""

    split: SplitParameters
