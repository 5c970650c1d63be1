"""What the MLflow UI shows of the experiment before anybody has set anything up: its description and its saved views.

MLflow 3.17 keeps a saved view as a tag of the experiment; the menu *Views* lists them, and an address can name one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pipeline.tracking.store import NOTE_TAG, Ledger

WRITTEN_TAG = "note.sha256"
DEFAULT_EXPERIMENT = "0"
VIEW_TAG = "mlflow.sharedViewState."
OURS = "Training runs of the Batch Normalization laboratory"
FIRST_LINE = f"{OURS}: one run is one trial, and each seed is a trial of its own."
RESULTS = {  # what the newest run of a kind holds, and in which file
    "report": ("the report", "report.html"),
    "verdicts": ("the verdict on each claim", "verdicts.json"),
    "evaluation": ("the test set", "trials.csv"),
}
RUNS_IN_A_CHART = 100
TRIALS = "tags.kind = 'trial'"
CURVES = ("val_accuracy", "val_accuracy_recalibrated", "train_eval_accuracy", "val_loss", "val_loss_recalibrated", "train_eval_loss")


@dataclass(frozen=True)
class View:
    """One entry of the menu *Views*: which runs, in which columns, grouped by what, with which charts."""

    name: str
    search: str
    columns: tuple[str, ...] = ()
    group_by: tuple[tuple[str, str], ...] = ()  # (tag or param, name)
    curves: tuple[str, ...] = ()
    parallel: tuple[tuple[str, ...], tuple[str, ...]] | None = None  # parameters and metrics of parallel coordinates
    order_by: str = "attributes.start_time"

    @property
    def shows_charts(self) -> bool:
        """Whether the view is about charts rather than the table."""
        return bool(self.curves or self.parallel)


def _tags(*names: str) -> tuple[str, ...]:
    return tuple(f"tags.`{name}`" for name in names)


def _params(*names: str) -> tuple[str, ...]:
    return tuple(f"params.`{name}`" for name in names)


def _metrics(*names: str) -> tuple[str, ...]:
    return tuple(f"metrics.`{name}`" for name in names)


LAST_METRICS = _metrics("val_accuracy", "val_accuracy_recalibrated", "train_eval_accuracy", "val_loss")
# The key stands in the view's address.
VIEWS: Mapping[str, View] = {
    "trials": View("All trials", TRIALS, (*_tags("study", "arm"), *_params("batch_size", "learning_rate", "seed"), *LAST_METRICS)),
    "arms": View(
        "Mean curves by arm",
        "tags.study LIKE '%train'",  # which is the last by the alphabet; '%train%' is continued_training too
        (*_tags("arm"), *_params("seed"), *LAST_METRICS),
        group_by=(("tag", "arm"), ("param", "batch_size")),
        curves=CURVES,
    ),
    "batch-sizes": View(
        "Mean curves by batch size",
        "tags.study LIKE '%batch_size_grid%'",
        (*_params("batch_size", "seed"), *LAST_METRICS),
        group_by=(("tag", "arm"), ("param", "batch_size")),
        curves=CURVES,
    ),
    "learning-rates": View(
        "Learning rates, parallel coordinates",
        "tags.study LIKE '%learning_rate%'",
        (*_tags("arm"), *_params("learning_rate", "seed"), *LAST_METRICS),
        parallel=(("normalization", "learning_rate"), ("val_loss", "val_accuracy", "train_eval_accuracy")),
    ),
    "results": View(
        "Reports, verdicts and evaluations",
        "tags.kind != 'trial'",
        (*_tags("kind"), "attributes.`Models`"),
    ),
}


def describe_experiment(ledger: Ledger) -> None:
    """Bring the experiment's note and saved views up to date; a note that somebody else wrote or changed stays.

    MLflow's own experiment Default belongs to everybody and is left alone.
    """
    if ledger.experiment_id == DEFAULT_EXPERIMENT:
        return
    results = {kind: run_id for kind in RESULTS if (run_id := ledger.newest_run(kind)) is not None}
    note, tags = _note(ledger.experiment_id, results), _views()
    if _is_as_written(ledger.experiment_tags()):
        tags |= {NOTE_TAG: note, WRITTEN_TAG: _sha256(note)}
    ledger.tag_experiment(tags)


def _is_as_written(tags: Mapping[str, str]) -> bool:
    """Whether the note is the one that was written last; earlier versions did not say which that was."""
    note = tags.get(NOTE_TAG, "")
    return not note or (_sha256(note) == tags[WRITTEN_TAG] if WRITTEN_TAG in tags else note.startswith(OURS))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _views() -> dict[str, str]:
    return {f"{VIEW_TAG}{key}": _envelope(view, len(VIEWS) - position) for position, (key, view) in enumerate(VIEWS.items())}


def view_address(experiment_id: str, key: str) -> str:
    """Where the UI shows a view, after its own address."""
    mode = "&compareRunsMode=CHART" if VIEWS[key].shows_charts else ""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={quote(key)}{mode}"


def _note(experiment_id: str, results: Mapping[str, str]) -> str:
    """Write the note; `results` gives the newest run's id by kind."""
    runs = f"#/experiments/{experiment_id}/runs"
    pages = [f"[{text}]({runs}/{results[kind]}/artifacts/{file})" for kind, (text, file) in RESULTS.items() if kind in results]
    views = [f"[{view.name}]({view_address(experiment_id, key)})" for key, view in VIEWS.items()]
    return "\n".join(
        [
            FIRST_LINE,
            "",
            f"**Results:** {' · '.join([*pages, '[the models that are served](#/models)'])}",
            "",
            f"**Views** (also in the menu *Views*): {' · '.join(views)}",
            "",
            "**How to read it**",
            "",
            "- A run is named after its arm, batch size, level and seed; the tag `study` names every study that uses it.",
            "- Steps are epochs. Group by the tag `arm` and the parameter `batch_size`, and curves become means over seeds.",
            "- `train_eval_*`: inference mode on the first 10,000 training images. `val_*`: validation with BN's moving averages;",
            "  `val_*_recalibrated`: with statistics of the training images in their place; `val_*_batch_statistics`: with those of",
            "  each validation batch, as in training.",
            "- The tag `claims` names the claims that a trial speaks to. Trials of study `train` have a model that can be served.",
            "- Equal tags `trial_key` promise equal bytes: such a trial is read back and not trained again.",
        ]
    )


def _envelope(view: View, time: int) -> str:
    """Write a view as MLflow keeps it; the menu lists the one of the latest `time` first."""
    return json.dumps({"name": view.name, "createdAt": time, "updatedAt": time, "state": json.dumps(_state(view))})


def _state(view: View) -> dict[str, Any]:
    charts = _charts(view)
    return {
        "searchFilter": view.search,
        "orderByKey": view.order_by,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(view.columns),
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOWALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": _grouping(view),
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        **({"compareRunCharts": charts, "compareRunSections": [_section()]} if charts else {}),
    }


def _grouping(view: View) -> dict[str, Any] | None:
    if not view.group_by:
        return None
    return {"aggregateFunction": "average", "groupByKeys": [{"mode": mode, "groupByData": name} for mode, name in view.group_by]}


def _section() -> dict[str, Any]:
    return {"uuid": "charts", "name": "Charts", "display": True, "isReordered": False, "deleted": False, "isGenerated": False}


def _charts(view: View) -> list[dict[str, Any]]:
    shared = {"metricSectionId": "charts", "deleted": False, "isGenerated": False, "runsCountToCompare": RUNS_IN_A_CHART}
    lines = [
        {
            **shared, "uuid": metric, "type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], "displayName": metric,
            "lineSmoothness": 0, "xAxisScaleType": "linear", "scaleType": "linear", "range": {}, "xAxisKey": "step",
            "selectedXAxisMetricKey": "", "yAxisKey": "metric", "yAxisExpressions": [], "ignoreOutliers": False,
            "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True,
        }
        for metric in view.curves
    ]  # fmt: skip
    if view.parallel is None:
        return lines
    parameters, metrics = view.parallel
    parallel = {"uuid": "parallel", "type": "PARALLEL", "selectedParams": list(parameters), "selectedMetrics": list(metrics)}
    return [{**shared, **parallel, "showAllRuns": True, "displayName": view.name}, *lines]
