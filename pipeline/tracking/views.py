"""What the MLflow UI shows of the experiment before anybody has set anything up: its description and its saved views.

MLflow 3.17 keeps a saved view as a tag of the experiment; the menu *Views* lists them, and an address can name one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pipeline.tracking import names
from pipeline.tracking.ledger import Ledger
from pipeline.training.metric_names import TRAIN_EVAL_EXAMPLES

DEFAULT_EXPERIMENT = "0"
RESULTS = {  # what the newest run of a kind holds, and in which file
    names.REPORT: ("the report", "report.html"),
    names.VERDICTS: ("the verdict on each claim", "verdicts.json"),
    names.EVALUATION: ("the test set", "trials.csv"),
}
RUNS_IN_A_CHART = 100
LAST_METRICS = tuple(f"metrics.`{name}`" for name in names.LAST_METRICS)
BY_ARM_AND_BATCH_SIZE = (("tag", names.ARM), ("param", "batch_size"))


@dataclass(frozen=True)
class View:
    """One entry of the menu *Views*: which runs, in which columns, grouped by what, with which charts."""

    name: str
    search: str
    columns: tuple[str, ...] = ()
    group_by: tuple[tuple[str, str], ...] = ()  # (tag or param, name)
    curves: tuple[str, ...] = ()
    parallel: tuple[tuple[str, ...], tuple[str, ...]] | None = None  # parameters and metrics of parallel coordinates


# The key stands in the view's address.
VIEWS: Mapping[str, View] = {
    "trials": View(
        "All trials",
        f"tags.{names.KIND} = '{names.TRIAL}'",
        (f"tags.`{names.STUDY}`", f"tags.`{names.ARM}`", "params.`batch_size`", "params.`learning_rate`", "params.`seed`", *LAST_METRICS),
    ),
    "arms": View(
        "Mean curves by arm",
        f"tags.{names.STUDY} LIKE '%train'",  # which is the last by the alphabet; '%train%' is continued_training too
        (f"tags.`{names.ARM}`", "params.`seed`", *LAST_METRICS),
        group_by=BY_ARM_AND_BATCH_SIZE,
        curves=names.CURVES,
    ),
    "batch-sizes": View(
        "Mean curves by batch size",
        f"tags.{names.STUDY} LIKE '%batch_size_grid%'",
        ("params.`batch_size`", "params.`seed`", *LAST_METRICS),
        group_by=BY_ARM_AND_BATCH_SIZE,
        curves=names.CURVES,
    ),
    "learning-rates": View(
        "Learning rates, parallel coordinates",
        f"tags.{names.STUDY} LIKE '%learning_rate%'",
        (f"tags.`{names.ARM}`", "params.`learning_rate`", "params.`seed`", *LAST_METRICS),
        parallel=(("normalization", "learning_rate"), names.PARALLEL),
    ),
    "results": View(
        "Reports, verdicts and evaluations", f"tags.{names.KIND} != '{names.TRIAL}'", (f"tags.`{names.KIND}`", "attributes.`Models`")
    ),
}


def describe_experiment(ledger: Ledger) -> None:
    """Bring the experiment's note and saved views up to date; keep a note that somebody else wrote or changed.

    MLflow's own experiment Default belongs to everybody and is left alone.
    """
    if ledger.experiment_id == DEFAULT_EXPERIMENT:
        return
    # The menu lists the view of the latest time first.
    tags = {names.VIEW.format(key): _envelope(view, len(VIEWS) - position) for position, (key, view) in enumerate(VIEWS.items())}
    present = dict(ledger.client.get_experiment(ledger.experiment_id).tags)
    before = present.get(names.NOTE, "")
    if not before or _sha256(before) == present.get(names.NOTE_SHA256):
        results = {kind: run_id for kind in RESULTS if (run_id := ledger.newest_run(kind)) is not None}
        note = _note(ledger.experiment_id, results)
        tags |= {names.NOTE: note, names.NOTE_SHA256: _sha256(note)}
    for name, value in tags.items():
        if present.get(name) != value:
            ledger.client.set_experiment_tag(ledger.experiment_id, name, value)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def view_address(experiment_id: str, key: str) -> str:
    """Return where the UI shows a view, after its own address."""
    mode = "&compareRunsMode=CHART" if VIEWS[key].curves or VIEWS[key].parallel else ""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={quote(key)}{mode}"


def _note(experiment_id: str, results: Mapping[str, str]) -> str:
    """Return the note, in Markdown; `results` gives the newest run's id by kind."""
    runs = f"#/experiments/{experiment_id}/runs"
    pages = [f"[{text}]({runs}/{results[kind]}/artifacts/{file})" for kind, (text, file) in RESULTS.items() if kind in results]
    views = [f"[{view.name}]({view_address(experiment_id, key)})" for key, view in VIEWS.items()]
    return f"""Training runs of the Batch Normalization laboratory: one run is one trial, and each seed is a trial of its own.

**Results:** {" · ".join([*pages, "[the models that are served](#/models)"])}

**Views** (also in the menu *Views*): {" · ".join(views)}

**How to read it**

- A run is named after its arm, batch size, level and seed; the tag `{names.STUDY}` names every study that uses it.
- Steps are epochs. Group by the tag `{names.ARM}` and the parameter `batch_size`, and curves become means over seeds.
- `train_eval_*`: inference mode on the first {TRAIN_EVAL_EXAMPLES:,} training images. `val_*`: validation with BN's moving averages;
  `val_*_recalibrated`: with statistics of the training images in their place; `val_*_batch_statistics`: with those of
  each validation batch, as in training.
- The tag `{names.CLAIMS}` names the claims that a trial speaks to. Trials of study `train` have a model that can be served.
- Equal tags `{names.TRIAL_KEY}` promise equal bytes: such a trial is read back and not trained again."""


def _envelope(view: View, time: int) -> str:
    """Return a view as MLflow keeps it."""
    charts = _charts(view)
    grouped = {"aggregateFunction": "average", "groupByKeys": [{"mode": mode, "groupByData": name} for mode, name in view.group_by]}
    state = {
        "searchFilter": view.search,
        "orderByKey": "attributes.start_time",
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
        "groupBy": grouped if view.group_by else None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    if charts:
        section = {"uuid": "charts", "name": "Charts", "display": True, "isReordered": False, "deleted": False, "isGenerated": False}
        state |= {"compareRunCharts": charts, "compareRunSections": [section]}
    return json.dumps({"name": view.name, "createdAt": time, "updatedAt": time, "state": json.dumps(state)})


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
