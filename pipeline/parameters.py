"""What params.yaml may say: types, ranges, and no key that nothing reads."""

import math
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.cifar10 import CLASSES, FILES, IMAGE_SHAPE
from pipeline.errors import PipelineError
from pipeline.notebook_studies import check_notebook_studies
from pipeline.strict_yaml import read_yaml
from pipeline.trial_config import Seed, TrainingConfig, TrialConfig

PARAMETERS_FILE = Path("params.yaml")
MAXIMUM_TRIALS = 100_000
MAXIMUM_WEIGHTS = 10**9

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


RunnerName = Literal["local", "ray"]


class StrictModel(BaseModel):
    """Unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Source(StrictModel):
    """Where CIFAR-10 may come from; `sha256` is the archive's, when it is known."""

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
    seed: Seed


class Study(StrictModel):
    """Arms × every combination of the grid's values × seeds, answering one question."""

    arms: list[Name] = Field(min_length=1)
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]]
    seeds: list[Seed] = Field(min_length=1)
    log_models: bool

    def levels(self) -> Iterator[dict[str, Any]]:
        """Each combination of the grid's values, as overrides of a trial."""
        for values in product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def count_trials(self) -> int:
        """Count them without enumerating them."""
        return len(self.arms) * len(self.seeds) * math.prod(map(len, self.grid.values()))


Cell = tuple[str, str, dict[str, Any]]  # study, arm and level: what one stage runs over the study's seeds


class Parameters(StrictModel):
    """All of params.yaml."""

    runner: RunnerName
    data: DataParameters
    split: SplitParameters
    trial: TrainingConfig
    arms: dict[Name, dict[str, Any]]
    studies: dict[Name, Study]

    def cells(self) -> Iterator[Cell]:
        """Every cell of every study, in the order in which they are declared."""
        for name, study in self.studies.items():
            for arm, level in product(study.arms, study.levels()):
                yield name, arm, level

    def trial_config(self, arm: str, level: dict[str, Any], seed: int) -> TrialConfig:
        """Describe one trial: the common settings, then the arm's, then the study's level."""
        return TrialConfig.model_validate({**self.trial.model_dump(), **self.arms[arm], **level, "seed": seed})


def load_parameters(path: Path = PARAMETERS_FILE) -> Parameters:
    """Read and check params.yaml, every arm and level included.

    Raises:
        PipelineError: the file is missing, is not YAML, repeats a key, or holds a wrong key or value (all are named).
    """
    try:
        parameters = Parameters.model_validate(read_yaml(path))
    except FileNotFoundError:
        raise PipelineError(f"{path}: not found; run from the project's root, where params.yaml stands") from None
    except ValidationError as error:
        raise PipelineError(explain(error, f"{path}: ")) from None
    check_studies(parameters, path)
    check_notebook_studies(parameters, path)
    return parameters


def flatten(settings: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Give each single setting with its dotted key; a list of plain values counts as one."""
    if isinstance(settings, dict) and settings:
        for name, value in settings.items():
            yield from flatten(value, f"{key}.{name}" if key else str(name))
    elif isinstance(settings, list) and any(isinstance(item, dict) for item in settings):
        for index, item in enumerate(settings):
            yield from flatten(item, f"{key}[{index}]")
    else:
        yield key, settings


def check_studies(parameters: Parameters, path: Path) -> None:
    """Refuse arms and studies that no trial could be described by.

    Raises:
        PipelineError: it names the key in `path` that is at fault.
    """
    _check_number_of_trials(parameters, path)
    _check_size(parameters.trial, f"{path}: trial")
    for arm in parameters.arms:
        _check_trial(parameters, arm, {}, f"{path}: arms.{arm}")
    for name, study in parameters.studies.items():
        for arm in study.arms:
            if arm not in parameters.arms:
                raise PipelineError(f"{path}: studies.{name}.arms: '{arm}' is not declared under arms ({', '.join(parameters.arms)})")
            for level in study.levels():
                _check_trial(parameters, arm, level, f"{path}: studies.{name}.grid")
        _check_values_differ(study, f"{path}: studies.{name}")


def _check_number_of_trials(parameters: Parameters, path: Path) -> None:
    trials = {name: study.count_trials() for name, study in parameters.studies.items()}
    if sum(trials.values()) > MAXIMUM_TRIALS:
        largest = max(trials, key=lambda name: trials[name])
        excess = f"declares {trials[largest]:,} trials, and all studies together may have {MAXIMUM_TRIALS:,}"
        raise PipelineError(f"{path}: studies.{largest}: {excess}; name fewer arms, seeds or values")


def _check_size(config: TrainingConfig, where: str) -> None:
    widths = [math.prod(IMAGE_SHAPE), *config.hidden_units, len(CLASSES)]
    weights = sum((inputs + 1) * units for inputs, units in pairwise(widths))
    if weights > MAXIMUM_WEIGHTS:
        raise PipelineError(f"{where}.hidden_units: gives a model {weights:,} weights, of at most {MAXIMUM_WEIGHTS:,}; make it smaller")


def _check_trial(parameters: Parameters, arm: str, level: dict[str, Any], where: str) -> None:
    reserved = {"seed"} & (level.keys() | parameters.arms[arm].keys())
    if reserved:
        raise PipelineError(f"{where}.seed: belongs in the study's seeds")
    try:
        config = parameters.trial_config(arm, level, seed=0)
    except ValidationError as error:
        raise PipelineError(explain(error, f"{where}.")) from None
    _check_size(config, where)


def _check_values_differ(study: Study, where: str) -> None:
    lists: dict[str, list[Any]] = {"arms": study.arms, "seeds": study.seeds, **{f"grid.{key}": study.grid[key] for key in study.grid}}
    for field, values in lists.items():
        if len({tuple(value) if isinstance(value, list) else value for value in values}) < len(values):
            raise PipelineError(f"{where}.{field}: has a value twice; name each once")


def explain(error: ValidationError, place: str) -> str:
    """Say in one line which keys are wrong and why; `place` stands before each key."""
    faults = []
    for fault in error.errors():
        key = ".".join(_on_one_line(part) for part in fault["loc"] if part != "[key]")
        shown = "" if fault["type"] == "missing" else f" (got {fault['input']!r:.60})"
        faults.append(f"{key or 'the whole file'}: {fault['msg'].removeprefix('Value error, ')}{shown}")
    return "; ".join(f"{place}{fault}" for fault in faults)


def _on_one_line(key: str | int) -> str:
    return str(key) if str(key).isprintable() else repr(key)


if __name__ == "__main__":
    from pipeline.command import run

    run(lambda: print("params.yaml is valid:", ", ".join(load_parameters().studies)))
