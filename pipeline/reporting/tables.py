"""What was measured, as it stands in files: read from the stages' outputs, or from the tables that the report keeps, and checked."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.errors import PipelineError
from pipeline.common.files import sha256_of
from pipeline.common.tables import read_json, read_table
from pipeline.pages.generated import REPORTS
from pipeline.training.result import diverged
from pipeline.trials.notebook import GRID, TRAIN
from pipeline.trials.parameters import Parameters

RESULTS = Path("results")
EVALUATION = RESULTS / "evaluate"
PROFILE = Path("data/processed/profile.json")

TRIAL = ["arm", "batch_size", "seed"]
STORED = ["val_loss", "val_accuracy"]
HISTORY_COLUMNS = [*TRIAL, "epoch", "loss", "accuracy", *STORED, "train_eval_loss", "train_eval_accuracy"]
EVALUATION_COLUMNS = {
    "trials": ["arm", "seed", "loss", "accuracy", "expected_calibration_error"],
    "per_class": ["arm", "seed", "class", "precision", "recall", "f1", "support"],
    "confusion_matrix": ["arm", "actual", "predicted", "count"],
    "references": ["reference", "loss", "accuracy"],
}
WEIGHTS_COLUMNS = ["study", *TRIAL, "sha256"]
INPUTS_COLUMNS = ["path", "md5"]


@dataclass(frozen=True)
class Tables:
    """Everything that was measured.

    `histories` holds every epoch of every trial and `weights` the SHA-256 of its weights' file, each with a leading
    `study`; `inputs` the MD5 of every file that the training stages left; `evaluation` the tables of the stage `evaluate`
    by name; `profile` that of the data.
    """

    histories: pd.DataFrame
    weights: pd.DataFrame
    inputs: pd.DataFrame
    evaluation: dict[str, pd.DataFrame]
    profile: dict[str, Any]

    def as_files(self) -> dict[str, str]:
        """Give each table's file below reports, and its text."""
        evaluation = {_name_in_reports(name): table for name, table in self.evaluation.items()}
        tables = {"history": self.histories, "weights": self.weights, "inputs": self.inputs, **evaluation}
        files = {f"{name}.csv": table.to_csv(index=False, lineterminator="\n") for name, table in tables.items()}
        return {**files, "data_profile.json": json.dumps(self.profile, indent=2, sort_keys=True) + "\n"}


def read_stage_outputs(parameters: Parameters) -> Tables:
    """Read what the stages wrote for the trials that `parameters` declares.

    Raises:
        PipelineError: a file is missing, not as its stage writes it, or of other trials.
    """
    cells = list(_read_cells(parameters))
    return Tables(
        histories=pd.concat([history for history, _ in cells], ignore_index=True),
        weights=pd.concat([weights for _, weights in cells], ignore_index=True),
        inputs=pd.DataFrame(_hash_inputs(), columns=INPUTS_COLUMNS),
        evaluation={
            name: read_table(EVALUATION / f"{name}.csv", columns, "run `dvc repro evaluate` to make it")
            for name, columns in EVALUATION_COLUMNS.items()
        },
        profile=read_json(PROFILE, "preprocess"),
    )


def read_committed(folder: Path = REPORTS) -> Tables:
    """Read the tables that the report keeps beside it.

    Raises:
        PipelineError: a file is missing, or not as the report writes it.
    """
    remedy = "run `dvc repro report` to make it"
    return Tables(
        histories=read_table(folder / "history.csv", ["study", *HISTORY_COLUMNS], remedy),
        weights=read_table(folder / "weights.csv", WEIGHTS_COLUMNS, remedy),
        inputs=read_table(folder / "inputs.csv", INPUTS_COLUMNS, remedy),
        evaluation={
            name: read_table(folder / f"{_name_in_reports(name)}.csv", columns, remedy) for name, columns in EVALUATION_COLUMNS.items()
        },
        profile=read_json(folder / "data_profile.json", "report"),
    )


def check_declared(tables: Tables, parameters: Parameters, folder: Path = REPORTS) -> None:
    """Compare the tables that the report keeps with what `parameters` declares.

    Raises:
        PipelineError: they hold other trials, or other epochs.
    """
    declared = {study: parameters.studies[study] for study in (TRAIN, GRID)}
    epochs = {
        (study, arm, config.batch_size, seed): config.total_epochs
        for study, arm, level in parameters.cells()
        if study in declared
        for seed in declared[study].seeds
        for config in (parameters.trial_config(arm, level, seed),)
    }
    _check_trials(folder / "history.csv", tables.histories, ["study", *TRIAL], epochs)
    if Counter(tables.weights[["study", *TRIAL]].itertuples(index=False, name=None)) != Counter(epochs.keys()):
        raise PipelineError(f"{folder / 'weights.csv'}: holds other trials than params.yaml declares; run `dvc repro`")


def _name_in_reports(name: str) -> str:
    return name if name == "confusion_matrix" else f"test_{name}"


def _read_cells(parameters: Parameters) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Give the history of each cell's trials, and the checksums of their weights."""
    for study, arm, level in parameters.cells():
        if study not in (TRAIN, GRID):
            continue
        cell = arm if study == TRAIN else str(level["batch_size"])
        folder = RESULTS / study / cell
        remedy = f"run `dvc repro {study}@{cell}` to make it"
        history = read_table(folder / "history.csv", HISTORY_COLUMNS, remedy)
        config, seeds = parameters.trial_config(arm, level, seed=0), parameters.studies[study].seeds
        _check_trials(folder / "history.csv", history, TRIAL, {(arm, config.batch_size, seed): config.total_epochs for seed in seeds})
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


def _hash_inputs() -> list[tuple[str, str]]:
    """MD5 of every file that the training stages left: what dvc.lock says of their folders follows from these."""
    paths = sorted(path for study in (TRAIN, GRID) for path in (RESULTS / study).rglob("*") if path.is_file())
    return [(path.as_posix(), hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()) for path in paths]


def _check_trials(path: Path, histories: pd.DataFrame, labels: list[str], epochs: dict[tuple[Any, ...], int]) -> None:
    """Compare the trials of a history, told apart by `labels`, with those declared and their numbers of epochs."""
    trials = dict(iter(histories.groupby(labels)))
    if trials.keys() != epochs.keys():
        raise PipelineError(f"{path}: holds other trials than params.yaml declares; run `dvc repro`")
    for key, trial in trials.items():
        name = ", ".join(f"{label} {value}" for label, value in zip(labels, key, strict=True))
        if trial["epoch"].tolist() != list(range(1, len(trial) + 1)):
            raise PipelineError(f"{path}: epochs of {name}, do not count up from 1; run `dvc repro --force`")
        if len(trial) != epochs[key] and not diverged(trial):
            raise PipelineError(f"{path}: {name}, has {len(trial)} epochs where params.yaml says {epochs[key]}; run `dvc repro`")
