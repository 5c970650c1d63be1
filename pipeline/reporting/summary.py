"""From every trial's history to the figures the report quotes: `reports/notebook/metrics.json`.

Layout: `train.<arm>.<view>.<metric>` and `batch_size_grid.<size>.<view>.<metric>` hold mean, sd and n over seeds;
`<study>_differences.<a>_minus_<b>.<view>.<metric>` hold paired differences with their 95 % interval. Views:

- `first_epoch`, `final`: the values after the first and the last epoch;
- `last_3_epochs`: each seed's mean over its last three epochs;
- `best`: each seed's highest validation accuracy and lowest validation loss, and their epochs;
- `test`: the test set, with the last epoch's weights (study `train` only).

Accuracies are shares of 1, losses are cross-entropies in nats.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import pandas as pd

from pipeline.common.errors import PipelineError
from pipeline.common.statistics import PairedDifference, paired_difference, summarize
from pipeline.reporting.results import RECALIBRATED, Results
from pipeline.reporting.tables import STORED
from pipeline.trials.notebook import BASELINE, BATCH_NORM, GRID, TRAIN
from pipeline.trials.parameters import Parameters

Metrics = dict[str, Any]
Cell = str | int  # an arm or a batch size
Views = dict[str, pd.DataFrame]

EPOCH_METRICS = ["loss", "accuracy", "train_eval_loss", "train_eval_accuracy", *STORED, *RECALIBRATED]
VALIDATED = ["train_eval_accuracy", *STORED, *RECALIBRATED]
TEST_METRICS = ["loss", "accuracy", "expected_calibration_error"]
SIGNIFICANT_DIGITS = 6


def summarize_results(results: Results, parameters: Parameters) -> Metrics:
    """Compute everything that goes into `reports/notebook/metrics.json`, rounded to 6 significant digits."""
    train_views = {**_epoch_views(results.train, "arm"), "test": results.test.set_index(["arm", "seed"])[TEST_METRICS]}
    grid_views = _epoch_views(results.grid, "batch_size")
    arms, sizes = parameters.studies[TRAIN].arms, parameters.studies[GRID].grid["batch_size"]
    trials = results.trials
    train_trials, grid_trials = (trials[trials["study"] == study] for study in (TRAIN, GRID))
    metrics = {
        TRAIN: {arm: _summaries(train_views, arm) | _diverged(train_trials[train_trials["arm"] == arm]) for arm in arms},
        f"{TRAIN}_differences": _differences(train_views, arms, BASELINE),
        GRID: {str(size): _summaries(grid_views, size) | _diverged(grid_trials[grid_trials["batch_size"] == size]) for size in sizes},
        f"{GRID}_differences": _differences(grid_views, sizes, reference_size(parameters)),
        "recalibration": _recalibration_effect(train_views),
        "references": results.references.set_index("reference").to_dict("index"),
    }
    return _without_gaps(metrics)


def headline_metrics(metrics: Metrics) -> dict[str, float]:
    """Few means that tell the result, for the report's MLflow run: `report_<arm>_<metric>`, shares of 1."""
    return {
        f"report_{arm}_{name}": views[view][metric]["mean"]
        for arm, views in metrics[TRAIN].items()
        for name, view, metric in [("val_accuracy", "final", "val_accuracy"), ("test_accuracy", "test", "accuracy")]
        if metric in views.get(view, {})
    }


def reference_size(parameters: Parameters) -> int:
    """Batch size that the others are compared with: the notebook's, where the study has it."""
    sizes: list[int] = parameters.studies[GRID].grid["batch_size"]
    return parameters.trial.batch_size if parameters.trial.batch_size in sizes else sizes[0]


def find_class_extremes(per_class: pd.DataFrame, arm: str) -> tuple[tuple[str, float], tuple[str, float]]:
    """Name the classes with an arm's highest and lowest mean F1, with that F1."""
    scores = per_class[per_class["arm"] == arm].groupby("class")["f1"].mean()
    return (str(scores.idxmax()), float(scores.max())), (str(scores.idxmin()), float(scores.min()))


def find_largest_confusion(counts: pd.DataFrame, arm: str) -> tuple[str, str, float]:
    """Name the actual and the wrongly predicted class of an arm's most frequent confusion, and its share of the actual class."""
    of_arm = counts[counts["arm"] == arm]
    shares = of_arm.assign(share=of_arm["count"] / of_arm.groupby("actual")["count"].transform("sum"))
    largest = shares[shares["actual"] != shares["predicted"]].nlargest(1, "share").iloc[0]
    return str(largest["actual"]), str(largest["predicted"]), float(largest["share"])


def _epoch_views(history: pd.DataFrame, cell: str) -> Views:
    """Reduce each trial to one row per view, indexed by (cell, seed)."""
    trials = history.set_index([cell, "seed"])
    last_epoch = int(trials["epoch"].max())
    final = trials[trials["epoch"] == last_epoch]
    last_3 = trials[trials["epoch"] > last_epoch - 3]
    return {
        "first_epoch": trials.loc[trials["epoch"] == 1, VALIDATED],
        "final": final[EPOCH_METRICS].assign(generalization_gap=final["train_eval_accuracy"] - final["val_accuracy"]),
        "last_3_epochs": last_3.groupby(level=[cell, "seed"], sort=False)[VALIDATED].mean(),
        "best": _best_epochs(history, cell),
    }


def _best_epochs(history: pd.DataFrame, cell: str) -> pd.DataFrame:
    trials = history.groupby([cell, "seed"], sort=False)
    highest = history.loc[trials["val_accuracy"].idxmax()].set_index([cell, "seed"])
    lowest = history.loc[trials["val_loss"].idxmin()].set_index([cell, "seed"])
    return pd.DataFrame(
        {
            "val_accuracy": highest["val_accuracy"],
            "val_accuracy_epoch": highest["epoch"],
            "val_loss": lowest["val_loss"],
            "val_loss_epoch": lowest["epoch"],
        }
    )


def _of(view: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """The view's rows of one cell, indexed by seed."""
    return view.loc[[cell]].droplevel(0)


def _summaries(views: Views, cell: Cell) -> Metrics:
    return {
        name: {metric: asdict(summarize(_of(view, cell)[metric])) for metric in view.columns}
        for name, view in views.items()
        if cell in view.index.get_level_values(0)
    }


def _differences(views: Views, cells: Iterable[Cell], reference: Cell) -> Metrics:
    return {
        f"{cell}_minus_{reference}": {
            name: {metric: asdict(_difference(view, metric, cell, reference)) for metric in view.columns} for name, view in views.items()
        }
        for cell in cells
        if cell != reference and all({cell, reference} <= set(view.index.get_level_values(0)) for view in views.values())
    }


def _difference(view: pd.DataFrame, metric: str, cell: Cell, reference: Cell) -> PairedDifference:
    """Compare two cells over the seeds that did not diverge in either."""
    treated, referred = _of(view, cell)[metric], _of(view, reference)[metric]
    paired = treated.index.intersection(referred.index)
    if paired.empty:
        raise PipelineError(f"no seed finished for both {cell} and {reference}; lower trial.learning_rate in params.yaml")
    return paired_difference(treated.loc[paired], referred.loc[paired])


def _recalibration_effect(views: Views) -> Metrics:
    """How the validation metrics of the BN arm change when population statistics replace its moving averages."""
    batch_norm = {name: _of(views[name], BATCH_NORM) for name in ("first_epoch", "final")}
    return {
        name: {
            stored: asdict(paired_difference(view[recalibrated], view[stored]))
            for stored, recalibrated in zip(STORED, RECALIBRATED, strict=True)
        }
        for name, view in batch_norm.items()
    }


def _diverged(trials: pd.DataFrame) -> Metrics:
    return {"diverged": {"count": int(trials["diverged"].sum()), "n": len(trials)}}


def _without_gaps(metrics: Metrics) -> Metrics:
    """Leave out what does not exist, None and NaN, and round what does."""
    kept: Metrics = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            kept[key] = _without_gaps(value)
        elif isinstance(value, int):
            kept[key] = value
        elif value is not None and not math.isnan(value):
            kept[key] = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return kept
