"""The tables that the report is made of: read from the stages' outputs, or from where the report keeps them, and checked."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.errors import PipelineError
from pipeline.common.files import sha256_of
from pipeline.common.tables import read_json, read_table
from pipeline.pages.generated import REPORTS
from pipeline.training.metric_names import BATCH_NORM_METRICS, EPOCH_METRICS
from pipeline.training.result import diverged
from pipeline.trials.notebook import BASELINE, BATCH_NORM, GRID, TRAIN
from pipeline.trials.parameters import Parameters
from pipeline.trials.studies import Cell

RESULTS = Path("results")
EVALUATION = RESULTS / "evaluate"
PROFILE = Path("data/processed/profile.json")
PROFILE_KEYS = ("dataset", "split", "classes", "channels", "duplicates")

TRIAL = ["study", "arm", "batch_size", "seed"]  # what tells trials apart
HISTORY_COLUMNS = [*TRIAL[1:], "epoch", *EPOCH_METRICS]
# The tables of the stage `evaluate`: the name that the report gives each, and its columns.
EVALUATION_TABLES = {
    "trials": ("test_trials.csv", ["arm", "seed", "loss", "accuracy", "expected_calibration_error"]),
    "per_class": ("test_per_class.csv", ["arm", "seed", "class", "precision", "recall", "f1", "support"]),
    "confusion_matrix": ("confusion_matrix.csv", ["arm", "actual", "predicted", "count"]),
    "references": ("test_references.csv", ["reference", "loss", "accuracy"]),
    "layers": ("layers.csv", ["arm", "layer", "output", "trained", "moving"]),
}


@dataclass(frozen=True)
class Tables:
    """Everything that the report draws on.

    `histories` has one row per study, trial and epoch. `weights` has the SHA-256 of each trial's weights. `inputs` has the MD5
    of every file that the declared cells left. `evaluation` has the tables of the stage `evaluate` by name, and `profile` is
    what `preprocess` says of the data.
    """

    histories: pd.DataFrame
    weights: pd.DataFrame
    inputs: pd.DataFrame
    evaluation: dict[str, pd.DataFrame]
    profile: dict[str, Any]

    def as_files(self) -> dict[str, str]:
        """Return the text of each file that keeps a table, by its path below reports/notebook."""
        tables = {"history.csv": self.histories, "weights.csv": self.weights, "inputs.csv": self.inputs}
        tables |= {EVALUATION_TABLES[name][0]: table for name, table in self.evaluation.items()}
        files = {name: table.to_csv(index=False, lineterminator="\n") for name, table in tables.items()}
        return {**files, "data_profile.json": json.dumps(self.profile, indent=2, sort_keys=True) + "\n"}

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial: `study`, `arm`, `batch_size`, `seed`, and whether it `diverged`."""
        return self.histories.assign(diverged=has_diverged(self.histories)).drop_duplicates(TRIAL)[[*TRIAL, "diverged"]]

    @cached_property
    def finished(self) -> pd.DataFrame:
        """Every epoch of the trials that did not diverge.

        Without Batch Normalization nothing stands in place of its moving averages, so that a metric such as
        `val_loss_recalibrated` there has the values of `val_loss`.

        Raises:
            PipelineError: A metric is missing, or every trial of an arm that is compared diverged.
        """
        finished = self.histories[~has_diverged(self.histories)].copy()
        for metric in BATCH_NORM_METRICS:
            if metric not in finished:
                raise PipelineError(f"{RESULTS / TRAIN / BATCH_NORM / 'history.csv'}: has no {metric}; run `dvc repro --force`")
            for plain in EPOCH_METRICS:
                if metric.startswith(f"{plain}_"):
                    finished[metric] = finished[metric].fillna(finished[plain])
        for study, arm in ((TRAIN, BASELINE), (TRAIN, BATCH_NORM), (GRID, BATCH_NORM)):
            if not ((finished["study"] == study) & (finished["arm"] == arm)).any():
                raise PipelineError(f"{RESULTS / study}: every trial of {arm} diverged; lower trial.learning_rate in params.yaml")
        return finished

    def history_of(self, study: str) -> pd.DataFrame:
        """Return every epoch of a study's trials that did not diverge."""
        return self.finished[self.finished["study"] == study]

    def tested(self, name: str) -> pd.DataFrame:
        """Return a table of the stage `evaluate`, of the trials that did not diverge.

        Raises:
            PipelineError: The table lacks one of these trials.
        """
        seeds = self.history_of(TRAIN)[["arm", "seed"]].drop_duplicates()
        chosen = seeds.merge(self.evaluation[name], on=["arm", "seed"], how="left")
        if chosen.isna().to_numpy().any():
            raise PipelineError(f"{EVALUATION / name}.csv: lacks a trial that did not diverge; run `dvc repro evaluate`")
        return chosen


def has_diverged(histories: pd.DataFrame) -> "pd.Series[bool]":
    """Return for each row whether it belongs to a trial that diverged."""
    return pd.concat([pd.Series(diverged(trial), index=trial.index) for _, trial in histories.groupby(TRIAL)]).sort_index()


def read_stage_outputs(parameters: Parameters) -> Tables:
    """Read what the stages wrote for the trials that `parameters` declares. Other files under results change nothing.

    Raises:
        PipelineError: A file is missing, is not as its stage writes it, or holds other trials.
    """
    histories, weights, paths = [], [], []
    for cell in parameters.cells():
        study, arm, level = cell
        if study not in (TRAIN, GRID):
            continue
        name = arm if study == TRAIN else str(level["batch_size"])
        folder, remedy = RESULTS / study / name, f"run `dvc repro {study}@{name}` to make it"
        history = read_table(folder / "history.csv", HISTORY_COLUMNS, remedy)
        history.insert(0, "study", study)
        _check_trials(folder / "history.csv", history, _declared_epochs(parameters, [cell]))
        trials = history[TRIAL].drop_duplicates(ignore_index=True)
        files = [folder / "weights" / f"seed-{seed}.weights.h5" for seed in trials["seed"]]
        if missing := [file for file in files if not file.exists()]:
            raise PipelineError(f"{missing[0]}: not found; {remedy}")
        weights.append(trials.assign(sha256=[sha256_of(file) for file in files]))
        histories.append(history)
        paths += [path for path in folder.rglob("*") if path.is_file()]
    inputs = [(path.as_posix(), hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()) for path in sorted(paths)]
    return Tables(
        histories=pd.concat(histories, ignore_index=True),
        weights=pd.concat(weights, ignore_index=True),
        inputs=pd.DataFrame(inputs, columns=["path", "md5"]),
        evaluation={
            name: read_table((RESULTS if name == "layers" else EVALUATION) / f"{name}.csv", columns, "run `dvc repro evaluate` to make it")
            for name, (_, columns) in EVALUATION_TABLES.items()
        },
        profile=_read_profile(PROFILE, "preprocess"),
    )


def read_committed(parameters: Parameters, folder: Path = REPORTS) -> Tables:
    """Read the tables that the report keeps beside it, for the trials that `parameters` declares.

    Raises:
        PipelineError: A file is missing, is not as the report writes it, or holds other trials or epochs.
    """
    remedy = "run `dvc repro report` to make it"
    tables = Tables(
        histories=read_table(folder / "history.csv", ["study", *HISTORY_COLUMNS], remedy),
        weights=read_table(folder / "weights.csv", [*TRIAL, "sha256"], remedy),
        inputs=read_table(folder / "inputs.csv", ["path", "md5"], remedy),
        evaluation={name: read_table(folder / file, columns, remedy) for name, (file, columns) in EVALUATION_TABLES.items()},
        profile=_read_profile(folder / "data_profile.json", "report"),
    )
    epochs = _declared_epochs(parameters, [cell for cell in parameters.cells() if cell[0] in (TRAIN, GRID)])
    _check_trials(folder / "history.csv", tables.histories, epochs)
    if set(tables.weights[TRIAL].itertuples(index=False, name=None)) != epochs.keys() or len(tables.weights) != len(epochs):
        raise PipelineError(f"{folder / 'weights.csv'}: holds other trials than params.yaml declares; run `dvc repro`")
    return tables


def _declared_epochs(parameters: Parameters, cells: list[Cell]) -> dict[tuple[Any, ...], int]:
    """Return how many epochs each trial of these cells is to have, by study, arm, batch size and seed."""
    configs = [(study, arm, parameters.trial_config(arm, level, seed=0)) for study, arm, level in cells]
    seeds = {study: parameters.studies[study].seeds for study, _, _ in cells}
    return {(study, arm, config.batch_size, seed): config.total_epochs for study, arm, config in configs for seed in seeds[study]}


def _check_trials(path: Path, histories: pd.DataFrame, epochs: dict[tuple[Any, ...], int]) -> None:
    """Compare the trials of a history with those declared and their numbers of epochs."""
    trials = dict(iter(histories.groupby(TRIAL)))
    if trials.keys() != epochs.keys():
        raise PipelineError(f"{path}: holds other trials than params.yaml declares; run `dvc repro`")
    for key, trial in trials.items():
        name = ", ".join(f"{label} {value}" for label, value in zip(TRIAL, key, strict=True))
        if trial["epoch"].tolist() != list(range(1, len(trial) + 1)):
            raise PipelineError(f"{path}: epochs of {name}, do not count up from 1; run `dvc repro --force`")
        if len(trial) != epochs[key] and not diverged(trial):
            raise PipelineError(f"{path}: {name}, has {len(trial)} epochs where params.yaml says {epochs[key]}; run `dvc repro`")


def _read_profile(path: Path, stage: str) -> dict[str, Any]:
    profile = read_json(path, stage)
    if missing := [key for key in PROFILE_KEYS if key not in profile]:
        raise PipelineError(f"{path}: has no {', '.join(missing)}; run `dvc repro --force {stage}`")
    return profile
