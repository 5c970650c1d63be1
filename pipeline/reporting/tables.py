"""The tables that the report is made of: read from the stages' outputs, or from where the report keeps them, and checked."""

import hashlib
import json
from collections import Counter
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

RESULTS = Path("results")
EVALUATION = RESULTS / "evaluate"
PROFILE = Path("data/processed/profile.json")
PROFILE_KEYS = ("dataset", "split", "classes", "channels", "duplicates")

TRIAL = ["arm", "batch_size", "seed"]
HISTORY_COLUMNS = [*TRIAL, "epoch", *EPOCH_METRICS]
WEIGHTS_COLUMNS = ["study", *TRIAL, "sha256"]
INPUTS_COLUMNS = ["path", "md5"]
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
        labels = ["study", *TRIAL]
        return self.histories.assign(diverged=has_diverged(self.histories)).drop_duplicates(labels)[[*labels, "diverged"]]

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

    def count_images(self, split: str) -> int:
        """Return the number of images in `train`, `validation` or `test`."""
        return sum(self.profile["classes"][split].values())


def has_diverged(histories: pd.DataFrame) -> "pd.Series[bool]":
    """Return for each row whether it belongs to a trial that diverged."""
    trials = histories.groupby(["study", *TRIAL])
    return pd.concat([pd.Series(diverged(trial), index=trial.index) for _, trial in trials]).sort_index()


def read_stage_outputs(parameters: Parameters) -> Tables:
    """Read what the stages wrote for the trials that `parameters` declares. Other files under results change nothing.

    Raises:
        PipelineError: A file is missing, is not as its stage writes it, or holds other trials.
    """
    histories, weights, paths = [], [], []
    for study, arm, level in parameters.cells():
        if study not in (TRAIN, GRID):
            continue
        cell = arm if study == TRAIN else str(level["batch_size"])
        folder, remedy = RESULTS / study / cell, f"run `dvc repro {study}@{cell}` to make it"
        history = read_table(folder / "history.csv", HISTORY_COLUMNS, remedy)
        config, seeds = parameters.trial_config(arm, level, seed=0), parameters.studies[study].seeds
        _check_trials(folder / "history.csv", history, TRIAL, {(arm, config.batch_size, seed): config.total_epochs for seed in seeds})
        files = [folder / "weights" / f"seed-{seed}.weights.h5" for seed in seeds]
        if missing := [file for file in files if not file.exists()]:
            raise PipelineError(f"{missing[0]}: not found; {remedy}")
        trials = history[TRIAL].drop_duplicates(ignore_index=True)
        weights.append(trials.assign(study=study, sha256=trials["seed"].map(dict(zip(seeds, map(sha256_of, files), strict=True)))))
        history.insert(0, "study", study)
        histories.append(history)
        paths += [path for path in folder.rglob("*") if path.is_file()]
    inputs = [(path.as_posix(), hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()) for path in sorted(paths)]
    return Tables(
        histories=pd.concat(histories, ignore_index=True),
        weights=pd.concat(weights, ignore_index=True)[WEIGHTS_COLUMNS],
        inputs=pd.DataFrame(inputs, columns=INPUTS_COLUMNS),
        evaluation={
            name: read_table((RESULTS if name == "layers" else EVALUATION) / f"{name}.csv", columns, "run `dvc repro evaluate` to make it")
            for name, (_, columns) in EVALUATION_TABLES.items()
        },
        profile=_read_profile(PROFILE, "preprocess"),
    )


def read_committed(folder: Path = REPORTS) -> Tables:
    """Read the tables that the report keeps beside it.

    Raises:
        PipelineError: A file is missing, or is not as the report writes it.
    """
    remedy = "run `dvc repro report` to make it"
    return Tables(
        histories=read_table(folder / "history.csv", ["study", *HISTORY_COLUMNS], remedy),
        weights=read_table(folder / "weights.csv", WEIGHTS_COLUMNS, remedy),
        inputs=read_table(folder / "inputs.csv", INPUTS_COLUMNS, remedy),
        evaluation={name: read_table(folder / file, columns, remedy) for name, (file, columns) in EVALUATION_TABLES.items()},
        profile=_read_profile(folder / "data_profile.json", "report"),
    )


def check_declared(tables: Tables, parameters: Parameters, folder: Path = REPORTS) -> None:
    """Compare the trials of the tables that the report keeps with those that `parameters` declares.

    Raises:
        PipelineError: The tables hold other trials, or other epochs.
    """
    epochs = {
        (study, arm, config.batch_size, seed): config.total_epochs
        for study, arm, level in parameters.cells()
        if study in (TRAIN, GRID)
        for seed in parameters.studies[study].seeds
        for config in (parameters.trial_config(arm, level, seed),)
    }
    _check_trials(folder / "history.csv", tables.histories, ["study", *TRIAL], epochs)
    if Counter(tables.weights[["study", *TRIAL]].itertuples(index=False, name=None)) != Counter(epochs.keys()):
        raise PipelineError(f"{folder / 'weights.csv'}: holds other trials than params.yaml declares; run `dvc repro`")


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


def _read_profile(path: Path, stage: str) -> dict[str, Any]:
    profile = read_json(path, stage)
    if missing := [key for key in PROFILE_KEYS if key not in profile]:
        raise PipelineError(f"{path}: has no {', '.join(missing)}; run `dvc repro --force {stage}`")
    return profile
