"""What params.yaml may say: types, ranges, and no key that nothing reads."""

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pipeline.common.errors import PipelineError
from pipeline.common.parameters import PARAMETERS_FILE, StrictModel, explain
from pipeline.common.strict_yaml import read_yaml
from pipeline.images.cifar10 import FILES
from pipeline.training.config import Seed, TrainingConfig, TrialConfig
from pipeline.trials.notebook import check_notebook_studies

MAXIMUM_TRIALS = 100_000

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


RunnerName = Literal["local", "ray"]


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


def check_studies(parameters: Parameters, path: Path) -> None:
    """Refuse arms and studies that no trial could be described by.

    Raises:
        PipelineError: it names the key in `path` that is at fault.
    """
    _check_number_of_trials(parameters, path)
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


def _check_trial(parameters: Parameters, arm: str, level: dict[str, Any], where: str) -> None:
    reserved = {"seed"} & (level.keys() | parameters.arms[arm].keys())
    if reserved:
        raise PipelineError(f"{where}.seed: belongs in the study's seeds")
    try:
        parameters.trial_config(arm, level, seed=0)
    except ValidationError as error:
        raise PipelineError(explain(error, f"{where}.")) from None


def _check_values_differ(study: Study, where: str) -> None:
    lists: dict[str, list[Any]] = {"arms": study.arms, "seeds": study.seeds, **{f"grid.{key}": study.grid[key] for key in study.grid}}
    for field, values in lists.items():
        if len({tuple(value) if isinstance(value, list) else value for value in values}) < len(values):
            raise PipelineError(f"{where}.{field}: has a value twice; name each once")


if __name__ == "__main__":
    from pipeline.common.command import run

    run(lambda: print("params.yaml is valid:", ", ".join(load_parameters().studies)))
