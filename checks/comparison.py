"""Compares measured numbers: bit for bit where the same must come out, else within what chance explains."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common.errors import PipelineError
from pipeline.reporting.results import has_diverged
from pipeline.training.environment import result_environment

TRIAL = ["study", "arm", "batch_size", "seed"]
EPOCH = [*TRIAL, "epoch"]
CELL_EPOCH = ["study", "arm", "batch_size", "epoch", "metric"]
IDENTICAL, WITHIN, DRIFT = "identical", "within tolerance", "drift"

# Two trainings that differ in rounding alone drift apart until they are as far from each other as two seeds: the difference
# of two draws has √2 times the spread of one, and five of those are exceeded once in two million comparisons.
SPREADS = 5 * math.sqrt(2)
EPOCHS_POOLED = 5  # a spread of few seeds is itself uncertain; neighbouring epochs steady it
BENCHMARK = Path(__file__).resolve().parent.parent / "benchmarks/results.json"


def unlike_environment(committed: Mapping[str, str]) -> list[str]:
    """List what is different here from the environment of a committed result; if nothing is, the same bits must come out."""
    here = result_environment()
    names = sorted(here.keys() | committed.keys())
    return [f"{name}: {committed.get(name, '-')} → {here.get(name, '-')}" for name in names if here.get(name) != committed.get(name)]


def judge(committed: float, rebuilt: float, tolerance: float) -> str:
    """Say how two values of one number compare; two that are not numbers are identical."""
    if committed == rebuilt or (math.isnan(committed) and math.isnan(rebuilt)):
        return IDENTICAL
    return WITHIN if abs(committed - rebuilt) <= tolerance else DRIFT


def compare_histories(committed: pd.DataFrame, rebuilt: pd.DataFrame, tolerances: pd.DataFrame | None) -> pd.DataFrame:
    """Compare every metric of every epoch of the trials in `rebuilt`.

    Without `tolerances` (of `history_tolerances`), only identical values pass. An epoch or metric that only one side has
    is a drift.

    Returns:
        one row per trial, epoch and metric, with both values, their difference, the tolerance and the verdict.
    """
    chosen = committed.merge(rebuilt[TRIAL].drop_duplicates())
    both = _long(chosen).merge(_long(rebuilt), on=[*EPOCH, "metric"], how="outer", suffixes=("_committed", "_rebuilt"), indicator=True)
    both = both.rename(columns={"value_committed": "committed", "value_rebuilt": "rebuilt"})
    both = both.merge(tolerances, on=CELL_EPOCH, how="left") if tolerances is not None else both.assign(tolerance=0.0)
    both["tolerance"] = both["tolerance"].fillna(0.0)
    both["difference"] = both["rebuilt"] - both["committed"]
    both["verdict"] = [judge(*values) for values in both[["committed", "rebuilt", "tolerance"]].itertuples(index=False)]
    both.loc[both["_merge"] != "both", "verdict"] = DRIFT
    return both.drop(columns="_merge")


def history_tolerances(histories: pd.DataFrame, across_instruction_sets: Mapping[str, float]) -> pd.DataFrame:
    """How far apart two trainings of one trial may be where the bits differ: by study, arm, batch size, epoch and metric.

    It is the larger of 5·√2 standard deviations between seeds (pooled over five neighbouring epochs) and the largest
    difference that was measured between instruction sets. A trial that diverged has no part in it.
    """
    table = _long(histories[~has_diverged(histories)]).groupby(CELL_EPOCH)["value"].var().rename("variance").reset_index()
    cells = table.groupby([name for name in CELL_EPOCH if name != "epoch"])["variance"]
    pooled = cells.transform(lambda variances: variances.rolling(EPOCHS_POOLED, center=True, min_periods=1).mean())
    measured = table["metric"].map(across_instruction_sets).fillna(0.0)
    return table.drop(columns="variance").assign(tolerance=np.fmax(SPREADS * np.sqrt(pooled), measured))


def across_instruction_sets() -> dict[str, float]:
    """The largest difference of each metric that `python -m benchmarks instruction_sets` measured.

    Raises:
        PipelineError: benchmarks/results.json does not hold them.
    """
    try:
        measured = json.loads(BENCHMARK.read_text(encoding="utf-8"))["instruction_sets"]["largest_difference"]
        return {name: float(difference) for name, difference in measured.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise PipelineError(f"benchmarks/{BENCHMARK.name}: holds no differences between instruction sets; take it back from git") from None


def _long(histories: pd.DataFrame) -> pd.DataFrame:
    """One row per trial, epoch and metric; metrics that a whole trial lacks are left out."""
    rows = histories.melt(EPOCH, var_name="metric")
    return rows[rows.groupby([*TRIAL, "metric"])["value"].transform("count") > 0]
