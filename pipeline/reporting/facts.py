"""The facts that follow from the tables: the numbers of `reports/notebook/metrics.json`, and what the template speaks of.

Layout of metrics.json: `train.<arm>.<view>.<metric>` and `batch_size_grid.<size>.<view>.<metric>` hold mean, sd and n over
seeds; `<study>_differences.<a>_minus_<b>.<view>.<metric>` hold paired differences with their 95 % interval. Views:

- `first_epoch`, `final`: the values after the first and the last epoch;
- `last_3_epochs`: each seed's mean over its last three epochs;
- `best`: each seed's highest validation accuracy and lowest validation loss, and their epochs;
- `test`: the test set, with the last epoch's weights (study `train` only).

The first three have every metric that `pipeline.training.metric_names` lists and that was measured. Accuracies are shares of 1,
losses are cross-entropies in nats.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pandas as pd

from pipeline.common.errors import PipelineError
from pipeline.common.parameters import flatten
from pipeline.common.statistics import paired_difference, summarize
from pipeline.reporting.tables import Tables
from pipeline.training.config import updates_per_epoch
from pipeline.training.metric_names import BATCH_NORM_METRICS, EPOCH_METRICS, TRAIN_EVAL_EXAMPLES
from pipeline.training.result import DIVERGED_LOSS
from pipeline.trials.notebook import BASELINE, BATCH_NORM, GRID, TRAIN
from pipeline.trials.parameters import Parameters

Metrics = dict[str, Any]
Views = dict[str, pd.DataFrame]  # by name; one row per trial, indexed by cell and seed

METRICS = {**EPOCH_METRICS, **BATCH_NORM_METRICS}
TEST_METRICS = ["loss", "accuracy", "expected_calibration_error"]


def summarize_results(tables: Tables, parameters: Parameters) -> Metrics:
    """Return everything that goes into `reports/notebook/metrics.json`, rounded to 6 significant digits."""
    arms, sizes = parameters.studies[TRAIN].arms, parameters.studies[GRID].grid["batch_size"]
    train_views, grid_views = _epoch_views(tables.history_of(TRAIN), "arm"), _epoch_views(tables.history_of(GRID), "batch_size")
    train_views["test"] = tables.tested("trials").set_index(["arm", "seed"])[TEST_METRICS]
    recalibration = {  # how validation of the BN arm changes when population statistics replace its moving averages
        name: {
            metric: _rounded(asdict(paired_difference(view[f"{metric}_recalibrated"], view[metric])))
            for metric in ("val_loss", "val_accuracy")
        }
        for name, view in ((name, train_views[name].loc[BATCH_NORM]) for name in ("first_epoch", "final"))
    }
    references = tables.evaluation["references"].set_index("reference").to_dict("index")
    return {
        **_summarize_study(TRAIN, "arm", train_views, arms, BASELINE, tables.trials),
        **_summarize_study(GRID, "batch_size", grid_views, sizes, reference_size(parameters), tables.trials),
        "recalibration": recalibration,
        "references": {str(name): _rounded(scores) for name, scores in references.items()},
    }


def _epoch_views(history: pd.DataFrame, label: str) -> Views:
    """Reduce each trial to one row per view. `label` is the column that names the cell."""
    trials = history.set_index([label, "seed"])
    last_epoch = int(trials["epoch"].max())
    final, last_3 = trials[trials["epoch"] == last_epoch], trials[trials["epoch"] > last_epoch - 3]
    by_trial = history.groupby([label, "seed"], sort=False)
    highest = history.loc[by_trial["val_accuracy"].idxmax()].set_index([label, "seed"])
    lowest = history.loc[by_trial["val_loss"].idxmin()].set_index([label, "seed"])
    return {
        "first_epoch": trials.loc[trials["epoch"] == 1, list(METRICS)],
        "final": final[list(METRICS)].assign(generalization_gap=final["train_eval_accuracy"] - final["val_accuracy"]),
        "last_3_epochs": last_3.groupby(level=[label, "seed"], sort=False)[list(METRICS)].mean(),
        "best": pd.DataFrame(
            {
                "val_accuracy": highest["val_accuracy"],
                "val_accuracy_epoch": highest["epoch"],
                "val_loss": lowest["val_loss"],
                "val_loss_epoch": lowest["epoch"],
            }
        ),
    }


def _summarize_study(study: str, label: str, views: Views, cells: list[Any], reference: str | int, trials: pd.DataFrame) -> Metrics:
    """Summarize each cell over its seeds, and its differences to the reference cell over the seeds that finished in both."""
    summaries: Metrics = {}
    differences: Metrics = {}
    of_cell = {
        cell: {name: view.loc[[cell]].droplevel(0).dropna(axis="columns", how="all") for name, view in views.items()}
        for cell in cells
        if all(cell in view.index for view in views.values())
    }
    for cell in cells:
        diverged = trials.loc[(trials["study"] == study) & (trials[label] == cell), "diverged"]
        summaries[str(cell)] = {"diverged": {"count": int(diverged.sum()), "n": len(diverged)}}
        for name, view in of_cell.get(cell, {}).items():
            summaries[str(cell)][name] = {metric: _rounded(asdict(summarize(view[metric]))) for metric in view}
        if cell == reference or not {cell, reference} <= of_cell.keys():
            continue
        for name, view in of_cell[cell].items():
            referred = of_cell[reference][name]
            paired = view.index.intersection(referred.index)
            if paired.empty:
                raise PipelineError(f"no seed finished for both {cell} and {reference}; lower trial.learning_rate in params.yaml")
            differences.setdefault(f"{cell}_minus_{reference}", {})[name] = {
                metric: _rounded(asdict(paired_difference(view.loc[paired, metric], referred.loc[paired, metric])))
                for metric in view.columns.intersection(referred.columns, sort=False)
            }
    return {study: summaries, f"{study}_differences": differences}


def _rounded(values: Mapping[Any, Any]) -> Metrics:
    """Return numbers by name, rounded to 6 significant digits. What does not exist, None or NaN, is left out."""
    there = {name: value for name, value in values.items() if value is not None and not math.isnan(value)}
    return {name: value if isinstance(value, int) else float(f"{value:.6g}") for name, value in there.items()}


def headline_metrics(metrics: Metrics) -> dict[str, float]:
    """Return the means that the report's MLflow run holds: `report_<arm>_<metric>`, shares of 1."""
    return {
        f"report_{arm}_{name}": views[view][metric]["mean"]
        for arm, views in metrics[TRAIN].items()
        for name, view, metric in [("val_accuracy", "final", "val_accuracy"), ("test_accuracy", "test", "accuracy")]
        if metric in views.get(view, {})
    }


def reference_size(parameters: Parameters) -> int:
    """Return the batch size that the others are compared with: that of `trial`, where the study has it."""
    sizes: list[int] = parameters.studies[GRID].grid["batch_size"]
    return parameters.trial.batch_size if parameters.trial.batch_size in sizes else sizes[0]


def describe(parameters: Parameters, tables: Tables, metrics: Metrics) -> dict[str, Any]:
    """Return what the report's template speaks of."""
    arms, sizes = parameters.studies[TRAIN].arms, parameters.studies[GRID].grid["batch_size"]
    baseline, batch_norm = (parameters.trial_config(arm, {}, seed=0) for arm in (BASELINE, BATCH_NORM))
    available = tables.count_images("train")
    trained_on = available if batch_norm.training_images == "all" else batch_norm.training_images
    updates, momentum = updates_per_epoch(trained_on, batch_norm.batch_size), batch_norm.batch_norm_momentum
    layers = {arm: of_arm.to_dict("records") for arm, of_arm in tables.evaluation["layers"].groupby("arm", sort=False)}
    if missing := {BASELINE, BATCH_NORM} - layers.keys():
        raise PipelineError(f"results/evaluate/layers.csv: has no layers of {missing.pop()}; run `dvc repro --force evaluate`")
    names = [layer["layer"] for layer in layers[BATCH_NORM]]
    return {
        "settings": list(flatten(parameters.model_dump(mode="json", exclude={"runner"}))),
        "metrics": metrics,
        "difference": metrics[f"{TRAIN}_differences"][f"{BATCH_NORM}_minus_{BASELINE}"],
        "meanings": METRICS,
        "arms": arms,
        "sizes": sizes,
        "reference_size": reference_size(parameters),
        "profile": tables.profile,
        "images": {split: tables.count_images(split) for split in tables.profile["classes"]},
        "trained_on": trained_on,
        "train_eval_images": min(TRAIN_EVAL_EXAMPLES, trained_on),
        "baseline": baseline,
        "batch_norm": batch_norm,
        "other_settings": {
            name: value for name, value in batch_norm.model_dump().items() if name != "normalization" and value != getattr(baseline, name)
        },
        "layers": layers,
        "values": {arm: sum(layer["trained"] + layer["moving"] for layer in of_arm) for arm, of_arm in layers.items()},
        "before_batch_norm": sorted({before for before, name in pairwise(names) if name == "Batch normalization"}),
        "updates": updates,
        "updates_of_sizes": {size: updates_per_epoch(trained_on, size) for size in sizes},
        # After t updates, the share k^t of a moving average's start value is left; it falls to s after ln s / ln k updates.
        "share_left": momentum**updates,
        "updates_until": {share: math.ceil(math.log(share) / math.log(momentum)) for share in (0.5, 0.01)} if momentum > 0 else None,
        "diverged_loss": DIVERGED_LOSS,
        "diverged": tables.trials[tables.trials["diverged"]].to_dict("records"),
        "trials": len(tables.trials),
        "class_extremes": {arm: _find_class_extremes(tables.tested("per_class"), arm) for arm in (BASELINE, BATCH_NORM)},
        "largest_confusion": {arm: _find_largest_confusion(tables.evaluation["confusion_matrix"], arm) for arm in (BASELINE, BATCH_NORM)},
    }


def _find_class_extremes(per_class: pd.DataFrame, arm: str) -> tuple[tuple[str, float], tuple[str, float]]:
    """Name the classes with an arm's highest and lowest mean F1, with that F1."""
    scores = per_class[per_class["arm"] == arm].groupby("class")["f1"].mean()
    return (str(scores.idxmax()), float(scores.max())), (str(scores.idxmin()), float(scores.min()))


def _find_largest_confusion(counts: pd.DataFrame, arm: str) -> tuple[str, str, float]:
    """Name the actual and the wrongly predicted class of an arm's most frequent confusion, and its share of the actual class."""
    of_arm = counts[counts["arm"] == arm]
    shares = of_arm.assign(share=of_arm["count"] / of_arm.groupby("actual")["count"].transform("sum"))
    largest = shares[shares["actual"] != shares["predicted"]].nlargest(1, "share").iloc[0]
    return str(largest["actual"]), str(largest["predicted"]), float(largest["share"])
