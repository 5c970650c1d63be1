"""Reads the tables of the studies under reports/claims/studies."""

from pathlib import Path

import pandas as pd

from claims.paths import STUDIES, remedy
from claims.studies.parameters import Studies
from pipeline.common.errors import PipelineError
from pipeline.common.tables import read_table
from pipeline.trials.studies import Study

DTYPES = {"arm": "str", "batch_size": "int64", "seed": "int64", "epoch": "int64", "sha256": "str", "diverged": "bool"}
PLAIN_IF_NOT_NORMALIZED = ("_recalibrated", "_batch_statistics", "_unbiased")  # without moving averages there is nothing to replace


def read_study(study: str, name: str, columns: list[str], folder: Path = STUDIES) -> pd.DataFrame:
    """Read the table `name` of a study: `history`, `weights` or `trials`.

    Raises:
        PipelineError: It is missing, or not as its stage writes it.
    """
    stage = "measure" if name == "trials" else "study"
    return read_table(folder / study / f"{name}.csv", ["arm", "batch_size", "seed", *columns], remedy(f"{stage}@{study}"), DTYPES)


def read_histories(studies: Studies, study: str, folder: Path = STUDIES) -> pd.DataFrame:
    """Read every epoch of a study's trials. An arm without moving averages has its plain values as recalibrated ones too."""
    columns = [*label_columns(studies.declared[study]), "epoch", "loss", "val_loss", "val_accuracy"]
    histories = read_study(study, "history", columns, folder)
    for column in [column for column in map(str, histories) if column.endswith(PLAIN_IF_NOT_NORMALIZED)]:
        plain = histories[column.removesuffix(next(filter(column.endswith, PLAIN_IF_NOT_NORMALIZED)))]
        measured = histories.groupby("arm")[column].transform("count") > 0
        histories[column] = histories[column].where(measured, plain)
    return histories


def label_columns(study: Study) -> list[str]:
    """Return the columns that tell a study's trials apart."""
    return ["arm", "batch_size", *(key for key in study.grid if key != "batch_size"), "seed"]


def whole_histories(studies: Studies, study: str, histories: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the history of each trial, in the order of declaration, with empty rows for the epochs that a diverged trial did not reach.

    Raises:
        PipelineError: The histories are of other trials than are declared.
    """
    declared = studies.declared[study]
    labels, whole = label_columns(declared), []
    trials = [trial for _, trial in histories.groupby(labels, sort=False)]
    expected = [(arm, seed, level) for arm in declared.arms for level in declared.levels() for seed in declared.seeds]
    if [(trial["arm"].iloc[0], trial["seed"].iloc[0]) for trial in trials] != [(arm, seed) for arm, seed, _ in expected]:
        path = STUDIES / study / "history.csv"
        raise PipelineError(f"{path}: holds other trials than claims/params.yaml declares; run `dvc repro claims/dvc.yaml:study@{study}`")
    for trial, (arm, _, level) in zip(trials, expected, strict=True):
        epochs = pd.RangeIndex(1, studies.epochs(arm, level) + 1, name="epoch")
        filled = trial.set_index("epoch").reindex(epochs).reset_index()
        whole.append(filled.assign(**{label: trial[label].iloc[0] for label in labels}))
    return whole
