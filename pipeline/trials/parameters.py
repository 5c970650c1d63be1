"""The sections `runner`, `trial`, `arms` and `studies` of params.yaml."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.common.errors import PipelineError
from pipeline.common.parameters import PARAMETERS_FILE, Sections, explain, read_sections
from pipeline.training.config import TrainingConfig, TrialConfig
from pipeline.trials.notebook import BASELINE, BATCH_NORM, GRID, NORMALIZATION, TRAIN
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
    _check_notebook_studies(parameters, path)
    return parameters


def check_studies(parameters: Parameters, path: Path) -> None:
    """Refuse arms and studies that no trial could be described by.

    Raises:
        PipelineError: It names the key in `path` that is wrong.
    """
    counts = {name: study.count_trials() for name, study in parameters.studies.items()}
    if sum(counts.values()) > MAXIMUM_TRIALS:
        largest = max(counts, key=lambda name: counts[name])
        excess = f"declares {counts[largest]:,} trials, and all studies together may have {MAXIMUM_TRIALS:,}"
        raise PipelineError(f"{path}: studies.{largest}: {excess}; name fewer arms, seeds or values")
    for arm in parameters.arms:
        _check_trial(parameters, arm, {}, f"{path}: arms.{arm}")
    for name, study in parameters.studies.items():
        where = f"{path}: studies.{name}"
        for arm in study.arms:
            if arm not in parameters.arms:
                raise PipelineError(f"{where}.arms: '{arm}' is not declared under arms ({', '.join(parameters.arms)})")
            for level in study.levels():
                _check_trial(parameters, arm, level, f"{where}.grid")
        lists: dict[str, list[Any]] = {"arms": study.arms, "seeds": study.seeds, **{f"grid.{key}": study.grid[key] for key in study.grid}}
        for field, values in lists.items():
            if len({tuple(value) if isinstance(value, list) else value for value in values}) < len(values):
                raise PipelineError(f"{where}.{field}: has a value twice; name each once")


def _check_trial(parameters: Parameters, arm: str, level: Level, where: str) -> None:
    if "seed" in level or "seed" in parameters.arms[arm]:
        raise PipelineError(f"{where}.seed: belongs in the study's seeds")
    try:
        parameters.trial_config(arm, level, seed=0)
    except ValidationError as error:
        raise PipelineError(explain(error, f"{where}.")) from None


def _check_notebook_studies(parameters: Parameters, path: Path) -> None:
    """Refuse what dvc.yaml would train in part only, or the report could not compare. Other studies are free."""
    for name in (TRAIN, GRID):
        if name not in parameters.studies:
            raise PipelineError(f"{path}: studies.{name}: missing; dvc.yaml trains it and the report is about it; declare it")
    train, grid = parameters.studies[TRAIN], parameters.studies[GRID]
    if missing := [arm for arm in NORMALIZATION if arm not in train.arms]:
        raise PipelineError(f"{path}: studies.{TRAIN}.arms: the report compares '{missing[0]}'; add it")
    configs = {arm: parameters.trial_config(arm, {}, seed=0) for arm in train.arms}
    if train.grid:
        raise PipelineError(f"{path}: studies.{TRAIN}.grid: should be {{}}; give another study the grid")
    for arm in train.arms:
        if configs[arm].epochs != configs[BASELINE].epochs:
            unlike = next(arm for arm in train.arms if configs[arm].epochs != parameters.trial.epochs)
            raise PipelineError(f"{path}: arms.{unlike}.epochs: should be equal in all arms, as the report compares them; set trial.epochs")
        if configs[arm].earlier_batch_sizes:
            raise PipelineError(f"{path}: arms.{arm}.earlier_batch_sizes: should be [] here; give another study the others")
    if grid.arms != [BATCH_NORM]:
        raise PipelineError(f"{path}: studies.{GRID}.arms: should be [{BATCH_NORM}], as its stages train; give another study the others")
    if grid.grid.keys() != {"batch_size"}:
        raise PipelineError(f"{path}: studies.{GRID}.grid: should have the key batch_size alone; give another study the others")
    for arm, normalization in NORMALIZATION.items():
        if configs[arm].normalization != normalization:
            raise PipelineError(f"{path}: arms.{arm}.normalization: should be '{normalization}'; give the other arm another name")
