"""The sections `runner`, `trial`, `arms` and `studies` of params.yaml."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.common.errors import PipelineError
from pipeline.common.parameters import PARAMETERS_FILE, Sections, explain, read_sections
from pipeline.training.config import TrainingConfig, TrialConfig
from pipeline.trials.notebook import check_notebook_studies
from pipeline.trials.studies import Cell, Level, Name, Study, cells

MAXIMUM_TRIALS = 100_000

RunnerName = Literal["local", "ray"]


class Parameters(Sections):
    """The sections of params.yaml that describe trials."""

    runner: RunnerName
    trial: TrainingConfig
    arms: dict[Name, dict[str, Any]]
    studies: dict[Name, Study]

    def cells(self) -> Iterator[Cell]:
        """Yield every cell of every study, in the order in which they are declared."""
        return cells(self.studies)

    def trial_config(self, arm: str, level: Level, seed: int) -> TrialConfig:
        """Describe one trial: the common settings, then the arm's, then the study's level."""
        return TrialConfig.model_validate({**self.trial.model_dump(), **self.arms[arm], **level, "seed": seed})


def load_parameters(path: Path = PARAMETERS_FILE) -> Parameters:
    """Read and check the sections of params.yaml that describe trials, every arm and level included.

    Raises:
        PipelineError: The file is missing, is not YAML, repeats a key, or one of the sections holds a wrong key or value.
    """
    parameters = read_sections(Parameters, path)
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
