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
from pipeline.common.statistics import PairedDifference, Summary, paired_difference, summarize
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
    train, grid = _epoch_views(tables.history_of(TRAIN), "arm"), _epoch_views(tables.history_of(GRID), "batch_size")
    recalibration: Metrics = {}  # how validation of the BN arm changes when population statistics replace its moving averages
    for name in ("first_epoch", "final"):
        view = train[name].loc[BATCH_NORM]
        changes = {metric: paired_difference(view[f"{metric}_recalibrated"], view[metric]) for metric in ("val_loss", "val_accuracy")}
        recalibration[name] = {metric: _rounded(change) for metric, change in changes.items()}
    train["test"] = tables.tested("trials").set_index(["arm", "seed"])[TEST_METRICS]
    return {
        **_summarize_study(TRAIN, "arm", train, arms, BASELINE, tables.trials),
        **_summarize_study(GRID, "batch_size", grid, sizes, reference_size(parameters), tables.trials),
        "recalibration": recalibration,
        "references": {row.pop("reference"): _rounded(row) for row in tables.evaluation["references"].to_dict("records")},
    }


def _epoch_views(history: pd.DataFrame, label: str) -> Views:
    """Reduce each trial to one row per view. `label` is the column that names the cell."""
    trials, metrics = history.set_index([label, "seed"]), list(METRICS)
    last_epoch = int(trials["epoch"].max())
    final, last_3 = trials[trials["epoch"] == last_epoch], trials[trials["epoch"] > last_epoch - 3]
    by_trial = history.groupby([label, "seed"], sort=False)
    best_rows = by_trial["val_accuracy"].idxmax(), by_trial["val_loss"].idxmin()
    highest, lowest = (history.loc[rows].set_index([label, "seed"]) for rows in best_rows)
    best = {"val_accuracy": highest["val_accuracy"], "val_accuracy_epoch": highest["epoch"]}
    return {
        "first_epoch": trials.loc[trials["epoch"] == 1, metrics],
        "final": final[metrics].assign(generalization_gap=final["train_eval_accuracy"] - final["val_accuracy"]),
        "last_3_epochs": last_3.groupby(level=[label, "seed"], sort=False)[metrics].mean(),
        "best": pd.DataFrame({**best, "val_loss": lowest["val_loss"], "val_loss_epoch": lowest["epoch"]}),
    }


def _summarize_study(study: str, label: str, views: Views, cells: list[Any], reference: str | int, trials: pd.DataFrame) -> Metrics:
    """Summarize each cell over its seeds, and its differences to the reference cell over the seeds that finished in both."""
    summaries: Metrics = {}
    differences: Metrics = {}
    of_cell = {
        cell: {name: view.loc[[cell]].droplevel(0).dropna(axis="columns", how="all") for name, view in views.items()}
        for cell in cells
        if cell in views["final"].index
    }
    for cell in cells:
        diverged = trials.loc[(trials["study"] == study) & (trials[label] == cell), "diverged"]
        summaries[str(cell)] = {"diverged": {"count": int(diverged.sum()), "n": len(diverged)}}
        for name, view in of_cell.get(cell, {}).items():
            summaries[str(cell)][name] = {metric: _rounded(summarize(view[metric])) for metric in view}
            if cell == reference or reference not in of_cell:
                continue
            referred = of_cell[reference][name]
            paired = view.index.intersection(referred.index)
            if paired.empty:
                raise PipelineError(f"no seed finished for both {cell} and {reference}; lower trial.learning_rate in params.yaml")
            differences.setdefault(f"{cell}_minus_{reference}", {})[name] = {
                metric: _rounded(paired_difference(view.loc[paired, metric], referred.loc[paired, metric]))
                for metric in view.columns.intersection(referred.columns, sort=False)
            }
    return {study: summaries, f"{study}_differences": differences}


def _rounded(found: Summary | PairedDifference | Mapping[Any, Any]) -> Metrics:
    """Return numbers by name, rounded to 6 significant digits. What does not exist, None or NaN, is left out."""
    values = found if isinstance(found, Mapping) else asdict(found)
    there = {name: value for name, value in values.items() if value is not None and not math.isnan(value)}
    return {name: value if isinstance(value, int) else float(f"{value:.6g}") for name, value in there.items()}


def reference_size(parameters: Parameters) -> int:
    """Return the batch size that the others are compared with: that of `trial`, where the study has it."""
    sizes: list[int] = parameters.studies[GRID].grid["batch_size"]
    return parameters.trial.batch_size if parameters.trial.batch_size in sizes else sizes[0]


def describe(parameters: Parameters, tables: Tables, metrics: Metrics) -> dict[str, Any]:
    """Return what the report's template speaks of."""
    sizes = parameters.studies[GRID].grid["batch_size"]
    baseline, batch_norm = (parameters.trial_config(arm, {}, seed=0) for arm in (BASELINE, BATCH_NORM))
    images = {split: sum(counts.values()) for split, counts in tables.profile["classes"].items()}
    trained_on = images["train"] if batch_norm.training_images == "all" else batch_norm.training_images
    updates, momentum = updates_per_epoch(trained_on, batch_norm.batch_size), batch_norm.batch_norm_momentum
    layers = {arm: of_arm.to_dict("records") for arm, of_arm in tables.evaluation["layers"].groupby("arm", sort=False)}
    if missing := {BASELINE, BATCH_NORM} - layers.keys():
        raise PipelineError(f"results/evaluate/layers.csv: has no layers of {missing.pop()}; run `dvc repro --force evaluate`")
    names = [layer["layer"] for layer in layers[BATCH_NORM]]
    f1 = tables.tested("per_class").pivot_table(index="class", columns="arm", values="f1")
    counts = tables.evaluation["confusion_matrix"]
    shares = counts.assign(share=counts["count"] / counts.groupby(["arm", "actual"])["count"].transform("sum"))
    wrong = shares[shares["actual"] != shares["predicted"]]
    confusions = wrong.loc[wrong.groupby("arm")["share"].idxmax()].set_index("arm")[["actual", "predicted", "share"]]
    return {
        "settings": list(flatten(parameters.model_dump(mode="json", exclude={"runner"}))),
        "metrics": metrics,
        "difference": metrics[f"{TRAIN}_differences"][f"{BATCH_NORM}_minus_{BASELINE}"],
        "meanings": METRICS,
        "arms": parameters.studies[TRAIN].arms,
        "sizes": sizes,
        "reference_size": reference_size(parameters),
        "profile": tables.profile,
        "images": images,
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
        "class_extremes": {arm: [(scores.idxmax(), scores.max()), (scores.idxmin(), scores.min())] for arm, scores in f1.items()},
        "largest_confusion": confusions.T.to_dict("list"),  # by arm: actual class, predicted class, share of the actual class
    }
