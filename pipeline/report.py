"""Stage `report`: answer the notebook part by part from what the earlier stages measured, under reports."""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.command import run
from pipeline.common.parameters import flatten
from pipeline.pages.generated import FIGURES, REPORTS, check_files, write_files
from pipeline.pages.html import make_page
from pipeline.pages.plotting import draw
from pipeline.pages.rendering import render
from pipeline.reporting import figures, theory
from pipeline.reporting.results import Results, derive_results
from pipeline.reporting.summary import (
    Metrics,
    find_class_extremes,
    find_largest_confusion,
    headline_metrics,
    reference_size,
    summarize_results,
)
from pipeline.reporting.tables import Tables, check_declared, read_committed, read_stage_outputs
from pipeline.tracking.store import Ledger
from pipeline.tracking.views import describe_experiment
from pipeline.training.metric_names import TRAIN_EVAL_EXAMPLES
from pipeline.training.result import DIVERGED_LOSS
from pipeline.trials.notebook import BASELINE, BATCH_NORM, GRID, TRAIN
from pipeline.trials.parameters import Parameters, load_parameters

TEMPLATES = Path(__file__).parent / "reporting/templates"


def main() -> None:
    """Read params.yaml and what the stages measured, and write reports, or with --check only compare."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if reports is not what its own tables give")
    check = parser.parse_args().check
    parameters = load_parameters()
    if check:
        tables = read_committed()
        check_declared(tables, parameters)
        check_files(make_report(parameters, tables), REPORTS)
        return
    tables = read_stage_outputs(parameters)
    write_files(make_report(parameters, tables), REPORTS)
    with Ledger() as ledger:
        ledger.log_report(REPORTS, headline_metrics(summarize_results(derive_results(tables), parameters)))
        describe_experiment(ledger)


def make_report(parameters: Parameters, tables: Tables) -> dict[str, str]:
    """Make every file of the report: its path below reports, and its text."""
    results = derive_results(tables)
    metrics = summarize_results(results, parameters)
    svgs = draw_figures(parameters, results)
    markdown = render("report.md", TEMPLATES, **describe(parameters, results, metrics))
    return {
        **svgs,
        **tables.as_files(),
        "report.md": markdown,
        "report.html": make_page(markdown, svgs),
        "metrics.json": json.dumps(metrics, indent=2, sort_keys=True) + "\n",
    }


def draw_figures(parameters: Parameters, results: Results) -> dict[str, str]:
    """Draw every figure as SVG, by its path below reports."""
    arms, sizes = parameters.studies[TRAIN].arms, parameters.studies[GRID].grid["batch_size"]
    svgs = {
        "paired_differences": draw(figures.paired_differences, _last_accuracies(results)),
        "accuracy": draw(figures.learning_curves, results.train, arms, "accuracy"),
        "loss": draw(figures.learning_curves, results.train, arms, "loss"),
        "recalibration": draw(figures.recalibration, results.train),
        "batch_sizes": draw(figures.batch_sizes, results.grid, sizes, _count_images(results, "train")),
        "confusion_matrices": draw(figures.confusion_matrices, results.confusion_matrix, arms),
        "class_scores": draw(figures.class_scores, results.per_class, arms),
    }
    return {f"{FIGURES}/{name}.svg": svg for name, svg in svgs.items()}


def _last_accuracies(results: Results) -> dict[str, pd.DataFrame]:
    """Accuracies after the last epoch: seeds that finished in both arms down, arms across."""
    last = results.train[results.train["epoch"] == results.train["epoch"].max()]
    sources = {
        "training": (last, "train_eval_accuracy"),
        "validation": (last, "val_accuracy"),
        "validation,\nrecalibrated": (last, "val_accuracy_recalibrated"),
        "test": (results.test, "accuracy"),
    }
    return {
        label: table.pivot_table(index="seed", columns="arm", values=column)[[BASELINE, BATCH_NORM]].dropna()
        for label, (table, column) in sources.items()
    }


def _count_images(results: Results, split: str) -> int:
    return sum(results.profile["classes"][split].values())


def describe(parameters: Parameters, results: Results, metrics: Metrics) -> dict[str, Any]:
    """Collect what the report's template speaks of."""
    baseline, batch_norm = (parameters.trial_config(arm, {}, seed=0) for arm in (BASELINE, BATCH_NORM))
    images = {split: _count_images(results, split) for split in results.profile["classes"]}
    return {
        "parameters": parameters,
        "settings": list(flatten(parameters.model_dump(mode="json", exclude={"runner"}))),
        "metrics": metrics,
        "difference": metrics[f"{TRAIN}_differences"][f"{BATCH_NORM}_minus_{BASELINE}"],
        "arms": parameters.studies[TRAIN].arms,
        "sizes": parameters.studies[GRID].grid["batch_size"],
        "reference_size": reference_size(parameters),
        "profile": results.profile,
        "images": images,
        "train_eval_images": min(TRAIN_EVAL_EXAMPLES, images["train"]),
        "batch_norm": batch_norm,
        "layers": {arm: theory.list_layers(config) for arm, config in ((BASELINE, baseline), (BATCH_NORM, batch_norm))},
        "theory": theory,
        "zip": zip,
        "updates": theory.updates_per_epoch(images["train"], batch_norm.batch_size),
        "diverged_loss": DIVERGED_LOSS,
        "diverged": results.trials[results.trials["diverged"]].to_dict("records"),
        "trials": len(results.trials),
        "class_extremes": {arm: find_class_extremes(results.per_class, arm) for arm in (BASELINE, BATCH_NORM)},
        "largest_confusion": {arm: find_largest_confusion(results.confusion_matrix, arm) for arm in (BASELINE, BATCH_NORM)},
    }


if __name__ == "__main__":
    run(main)
