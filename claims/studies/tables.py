"""Reads the tables under reports/claims."""

from collections import defaultdict
from pathlib import Path

import pandas as pd

from claims.probes.columns import MECHANISM_COLUMNS, TIMING_COLUMNS
from claims.studies.parameters import EXACT, RESULTS, STUDIES, TIMED
from pipeline.common.tables import read_table

STUDY_DTYPES = {"arm": "str", "batch_size": "int64", "seed": "int64", "epoch": "int64", "sha256": "str", "diverged": "bool"}
TEXT = ("what", "arm", "direction", "check", "passes", "source", "url", "network", "metric")
WHOLE_NUMBERS = ("block", "step", "batch_size")
DTYPES = defaultdict(lambda: "float64", dict.fromkeys(TEXT, "str") | dict.fromkeys(WHOLE_NUMBERS, "int64"))
PLAIN_IF_NOT_NORMALIZED = ("_recalibrated", "_batch_statistics", "_unbiased")  # without moving averages there is nothing to replace


def read_study(study: str, name: str, columns: list[str], folder: Path = STUDIES) -> pd.DataFrame:
    """Read a table of a study.

    Raises:
        PipelineError: it is missing, or not as its stage writes it.
    """
    stage = "measure" if name == "trials" else "study"
    return read_table(folder / study / f"{name}.csv", ["arm", "batch_size", "seed", *columns], remedy(f"{stage}@{study}"), STUDY_DTYPES)


def read_histories(study: str, folder: Path = STUDIES) -> pd.DataFrame:
    """Read every epoch of a study's trials; an arm without moving averages has its plain values as recalibrated ones too."""
    histories = read_study(study, "history", ["epoch", "loss", "val_loss", "val_accuracy"], folder)
    for column in [column for column in map(str, histories) if column.endswith(PLAIN_IF_NOT_NORMALIZED)]:
        plain = histories[column.removesuffix(next(filter(column.endswith, PLAIN_IF_NOT_NORMALIZED)))]
        measured = histories.groupby("arm")[column].transform("count") > 0
        histories[column] = histories[column].where(measured, plain)
    return histories


def read_timing(results: Path = RESULTS) -> pd.DataFrame:
    """Read the milliseconds of every block.

    Raises:
        PipelineError: the table is missing, or not as its stage writes it.
    """
    return read_table(results / f"{TIMED}.csv", TIMING_COLUMNS, remedy(TIMED), DTYPES)


def read_mechanism(name: str, results: Path = RESULTS) -> pd.DataFrame:
    """Read the table of a probe.

    Raises:
        PipelineError: it is missing, or not as its stage writes it.
    """
    return read_table(results / EXACT / f"{name}.csv", MECHANISM_COLUMNS[name], remedy(EXACT), DTYPES)


def remedy(stage: str) -> str:
    """What to do about a table that is not as its stage writes it."""
    return f"run `dvc repro claims/dvc.yaml:{stage}` to make it"
