"""What the report draws on, sorted out of the tables of what was measured."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.common.errors import PipelineError
from pipeline.reporting.tables import EVALUATION, RESULTS, STORED, TRIAL, Tables
from pipeline.training.result import diverged
from pipeline.trials.notebook import BASELINE, BATCH_NORM, GRID, TRAIN

RECALIBRATED = [f"{metric}_recalibrated" for metric in STORED]


@dataclass(frozen=True)
class Results:
    """Everything the report draws on.

    `train` and `grid` hold every epoch of the trials that did not diverge; there, an arm without moving averages has its
    plain values in the recalibrated columns too, because it has nothing to recalibrate. `trials` says of every trial
    whether it `diverged`.
    """

    train: pd.DataFrame
    grid: pd.DataFrame
    trials: pd.DataFrame
    test: pd.DataFrame
    per_class: pd.DataFrame
    confusion_matrix: pd.DataFrame
    references: pd.DataFrame
    profile: dict[str, Any]


def derive_results(tables: Tables) -> Results:
    """Sort out what the report draws on.

    Raises:
        PipelineError: a table lacks a trial, or holds nothing that can be compared.
    """
    histories = tables.histories
    finished = _finished(histories)
    train, grid = (finished[finished["study"] == study] for study in (TRAIN, GRID))
    seeds = train[["arm", "seed"]].drop_duplicates()
    return Results(
        train=train,
        grid=grid[grid["arm"] == BATCH_NORM],
        trials=histories.assign(diverged=has_diverged(histories)).drop_duplicates(["study", *TRIAL])[["study", *TRIAL, "diverged"]],
        test=_of_finished_trials(tables, "trials", seeds),
        per_class=_of_finished_trials(tables, "per_class", seeds),
        confusion_matrix=tables.evaluation["confusion_matrix"],
        references=tables.evaluation["references"],
        profile=tables.profile,
    )


def has_diverged(histories: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each row belongs to a trial that diverged."""
    trials = histories.groupby(["study", *TRIAL])
    return pd.concat([pd.Series(diverged(trial), index=trial.index) for _, trial in trials]).sort_index()


def _finished(histories: pd.DataFrame) -> pd.DataFrame:
    finished = histories[~has_diverged(histories)].copy()
    for stored, recalibrated in zip(STORED, RECALIBRATED, strict=True):
        if recalibrated not in finished:
            raise PipelineError(f"{RESULTS / TRAIN / BATCH_NORM / 'history.csv'}: has no {recalibrated}; run `dvc repro --force`")
        finished[recalibrated] = finished[recalibrated].fillna(finished[stored])
    for study, arm in ((TRAIN, BASELINE), (TRAIN, BATCH_NORM), (GRID, BATCH_NORM)):
        if not ((finished["study"] == study) & (finished["arm"] == arm)).any():
            raise PipelineError(f"{RESULTS / study}: every trial of {arm} diverged; lower trial.learning_rate in params.yaml")
    return finished


def _of_finished_trials(tables: Tables, name: str, finished: pd.DataFrame) -> pd.DataFrame:
    chosen = finished.merge(tables.evaluation[name], on=["arm", "seed"], how="left")
    if chosen.isna().to_numpy().any():
        raise PipelineError(f"{EVALUATION / name}.csv: lacks a trial that did not diverge; run `dvc repro evaluate`")
    return chosen
