"""The two studies of the notebook: the stages of dvc.yaml train exactly them, and the report compares them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.common.errors import PipelineError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.trials.parameters import Parameters

BASELINE = "baseline"
BATCH_NORM = "batch_norm"
TRAIN = "train"
GRID = "batch_size_grid"
NORMALIZATION = {BASELINE: "none", BATCH_NORM: "batch"}


def check_notebook_studies(parameters: Parameters, path: Path) -> None:
    """Refuse what would be trained in part only, or in a way that the report could not compare; other studies are free.

    Raises:
        PipelineError: it names the key that is at fault.
    """
    for name in (TRAIN, GRID):
        if name not in parameters.studies:
            raise PipelineError(f"{path}: studies.{name}: missing; dvc.yaml trains it and the report is about it; declare it")
    _check_train(parameters, path)
    _check_grid(parameters, path)
    for arm in parameters.studies[TRAIN].arms:
        if parameters.trial_config(arm, {}, seed=0).earlier_batch_sizes:
            raise PipelineError(f"{path}: arms.{arm}.earlier_batch_sizes: should be [] here; give another study the others")
    for arm, normalization in NORMALIZATION.items():
        if parameters.trial_config(arm, {}, seed=0).normalization != normalization:
            raise PipelineError(f"{path}: arms.{arm}.normalization: should be '{normalization}'; give the other arm another name")


def _check_train(parameters: Parameters, path: Path) -> None:
    study = parameters.studies[TRAIN]
    if missing := [arm for arm in NORMALIZATION if arm not in study.arms]:
        raise PipelineError(f"{path}: studies.{TRAIN}.arms: the report compares '{missing[0]}'; add it")
    if study.grid:
        raise PipelineError(f"{path}: studies.{TRAIN}.grid: should be {{}}; give another study the grid")
    epochs = {arm: parameters.trial_config(arm, {}, seed=0).epochs for arm in study.arms}
    if len(set(epochs.values())) > 1:
        arm = next(arm for arm in epochs if epochs[arm] != parameters.trial.epochs)
        raise PipelineError(f"{path}: arms.{arm}.epochs: the report compares arms after equally many; set trial.epochs for all instead")


def _check_grid(parameters: Parameters, path: Path) -> None:
    study = parameters.studies[GRID]
    if study.arms != [BATCH_NORM]:
        raise PipelineError(f"{path}: studies.{GRID}.arms: should be [{BATCH_NORM}], as its stages train; give another study the others")
    if study.grid.keys() != {"batch_size"}:
        raise PipelineError(f"{path}: studies.{GRID}.grid: should have the key batch_size alone; give another study the others")
