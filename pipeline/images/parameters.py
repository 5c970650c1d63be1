"""The sections `data` and `split` of params.yaml."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import InitErrorDetails

from pipeline.common.parameters import Sections, StrictModel
from pipeline.images.datasets import DATASETS


def _check_name(name: str) -> str:
    if name not in DATASETS:
        raise ValueError(f"should be one of {', '.join(DATASETS)}")
    return name


DatasetName = Annotated[str, AfterValidator(_check_name)]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Source(StrictModel):
    """Where the data set may come from. `sha256` is the archive's, when it is known."""

    url: str = Field(min_length=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class DataParameters(StrictModel):
    """Which data set it is, where it comes from and what its files must be."""

    dataset: DatasetName
    sources: list[Source] = Field(min_length=1)
    md5: dict[str, Md5]
    attempts: int = Field(ge=1, le=100)
    timeout_seconds: float = Field(gt=0, le=3600)
    maximum_megabytes: int = Field(ge=1, le=100_000)

    @field_validator("md5")
    @classmethod
    def _check_files(cls, md5: dict[str, Md5], info: ValidationInfo) -> dict[str, Md5]:
        files = DATASETS[info.data["dataset"]].files if "dataset" in info.data else md5  # a wrong name is the fault to mend
        faults = [InitErrorDetails(type="missing", loc=(name,), input=md5) for name in files if name not in md5]
        faults += [InitErrorDetails(type="extra_forbidden", loc=(name,), input=md5[name]) for name in md5 if name not in files]
        if faults:
            raise ValidationError.from_exception_data("md5", faults)
        return md5


class SplitParameters(StrictModel):
    """How validation examples are taken from the training set."""

    method: Literal["last", "stratified"]
    validation_fraction: float = Field(gt=0, lt=1)
    seed: int = Field(ge=0, lt=2**32)


class DataSection(Sections):
    """What `fetch` reads of params.yaml."""

    data: DataParameters


class DatasetChoice(Sections):
    """The one key of `data` that says how to read the files."""

    dataset: DatasetName


class SplitSection(Sections):
    """What `preprocess` reads of params.yaml."""

    data: DatasetChoice
    split: SplitParameters
