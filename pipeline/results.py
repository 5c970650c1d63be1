"""What the earlier stages measured: read from their outputs, or from the tables that the report keeps, and checked."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.notebook_studies import BASELINE, BATCH_NORM, GRID, TRAIN
from pipeline.parameters import Parameters
from pipeline.trial_result import diverged, sha256_of

RESULTS = Path("results")
EVALUATION = RESULTS / "evaluate"
PROFILE = Path("data/processed/profile.json")
REPORTS = Path("reports")

TRIAL = ["arm", "batch_size", "seed"]
STORED = ["val_loss", "val_accuracy"]
RECALIBRATED = [f"{metric}_recalibrated" for metric in STORED]
HISTORY_COLUMNS = [*TRIAL, "epoch", "loss", "accuracy", *STORED, "train_eval_loss", "train_eval_accuracy"]
EVALUATION_COLUMNS = {
    "trials": ["arm", "seed", "loss", "accuracy", "expected_calibration_error"],
    "per_class": ["arm", "seed", "class", "precision", "recall", "f1", "support"],
    "confusion_matrix": ["arm", "actual", "predicted", "count"],
    "references": ["reference", "loss", "accuracy"],
}
WEIGHTS_COLUMNS = ["study", *TRIAL, "sha256"]


@dataclass(frozen=True)
class Tables:
    """What was measured, as it stands in files.

    `histories` holds every epoch of every trial and `weights` the SHA-256 of its weights' file, each with a leading
    `study`; `evaluation` the tables of the stage `evaluate` by name; `profile` that of the data.
    """

    histories: pd.DataFrame
    weights: pd.DataFrame
    evaluation: dict[str, pd.DataFrame]
    profile: dict[str, Any]

    def as_files(self) -> dict[str, str]:
        """Give each table's file below reports, and its text."""
        tables = {"history": self.histories, "weights": self.weights, **_named_in_reports(self.evaluation)}
        files = {f"{name}.csv": table.to_csv(index=False, lineterminator="\n") for name, table in tables.items()}
        return {**files, "data_profile.json": json.dumps(self.profile, indent=2, sort_keys=True) + "\n"}


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


def read_stage_outputs(parameters: Parameters) -> Tables:
    """Read what the stages wrote for the trials that `parameters` declares.

    Raises:
        PipelineError: a file is missing, or not as its stage writes it.
    """
    cells = list(_read_cells(parameters))
    evaluation = {
        name: _read_table(EVALUATION / f"{name}.csv", columns, "run `dvc repro evaluate` to make it")
        for name, columns in EVALUATION_COLUMNS.items()
    }
    return Tables(
        histories=pd.concat([history for history, _ in cells], ignore_index=True),
        weights=pd.concat([weights for _, weights in cells], ignore_index=True),
        evaluation=evaluation,
        profile=_read_profile(PROFILE, "preprocess"),
    )


def read_committed(folder: Path = REPORTS) -> Tables:
    """Read the tables that the report keeps beside it.

    Raises:
        PipelineError: a file is missing, or not as the report writes it.
    """
    remedy = "run `dvc repro report` to make it"
    return Tables(
        histories=_read_table(folder / "history.csv", ["study", *HISTORY_COLUMNS], remedy),
        weights=_read_table(folder / "weights.csv", WEIGHTS_COLUMNS, remedy),
        evaluation={
            name: _read_table(folder / f"{_name_in_reports(name)}.csv", columns, remedy) for name, columns in EVALUATION_COLUMNS.items()
        },
        profile=_read_profile(folder / "data_profile.json", "report"),
    )


def _name_in_reports(name: str) -> str:
    return name if name == "confusion_matrix" else f"test_{name}"


def _named_in_reports(evaluation: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {_name_in_reports(name): table for name, table in evaluation.items()}


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


def _read_cells(parameters: Parameters) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Give the history of each cell's trials, and the checksums of their weights."""
    train, grid = parameters.studies[TRAIN], parameters.studies[GRID]
    cells = [(TRAIN, arm, [arm], train.seeds) for arm in train.arms]
    cells += [(GRID, str(size), grid.arms, grid.seeds) for size in grid.grid["batch_size"]]
    for study, cell, arms, seeds in cells:
        folder = RESULTS / study / cell
        remedy = f"run `dvc repro {study}@{cell}` to make it"
        history = _read_table(folder / "history.csv", HISTORY_COLUMNS, remedy)
        epochs = {arm: parameters.trial_config(arm, {}, seed=0).epochs for arm in arms}
        _check_history(folder / "history.csv", history, {(arm, seed): epochs[arm] for arm in arms for seed in seeds})
        weights = history[TRIAL].drop_duplicates(ignore_index=True)
        weights["sha256"] = [_hash_weights(folder / "weights" / f"seed-{seed}.weights.h5", remedy) for seed in weights["seed"]]
        for table in (history, weights):
            table.insert(0, "study", study)
        yield history, weights


def _hash_weights(path: Path, remedy: str) -> str:
    try:
        return sha256_of(path)
    except FileNotFoundError:
        raise PipelineError(f"{path}: not found; {remedy}") from None


def _check_history(path: Path, history: pd.DataFrame, declared: dict[tuple[str, int], int]) -> None:
    if set(zip(history["arm"], history["seed"], strict=True)) != set(declared):
        raise PipelineError(f"{path}: holds other trials than params.yaml declares; run `dvc repro`")
    for (arm, seed), epochs in declared.items():
        trial = history[(history["arm"] == arm) & (history["seed"] == seed)]
        if trial["epoch"].tolist() != list(range(1, len(trial) + 1)):
            raise PipelineError(f"{path}: epochs of {arm}, seed {seed}, do not count up from 1; run `dvc repro --force`")
        if len(trial) != epochs and not diverged(trial):
            raise PipelineError(f"{path}: {arm}, seed {seed}, has {len(trial)} epochs where params.yaml says {epochs}; run `dvc repro`")


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


def _read_table(path: Path, columns: list[str], remedy: str) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise PipelineError(f"{path}: not found; {remedy}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: not a CSV table ({' '.join(str(error).split())}); {remedy}") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise PipelineError(f"{path}: has no column {', '.join(missing)}; {remedy}")
    return table


def _read_profile(path: Path, stage: str) -> dict[str, Any]:
    try:
        profile: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: not found; run `dvc repro {stage}` to make it") from None
    except ValueError:
        raise PipelineError(f"{path}: not valid JSON; run `dvc repro --force {stage}`") from None
    return profile
