"""The plots of dvc.yaml, on small data in a DVC repository of its own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.images.cifar10 import CLASSES
from pipeline.pages.plotting import ARM_COLOURS, LEVEL_COLOURS
from pipeline.training.metric_names import EPOCH_METRICS
from tests.conftest import ROOT

TEMPLATES = {path.stem: path for path in (ROOT / ".dvc/plots").glob("*.json")}
ARMS = ("baseline", "group_norm", "batch_norm")
ACCURACY = {"baseline": 0.3, "group_norm": 0.4, "batch_norm": 0.5}


def read_plots() -> dict[str, dict]:
    plots = YAML(typ="safe").load(ROOT / "dvc.yaml")["plots"]
    return {name: definition for plot in plots for name, definition in plot.items()}


def write_data(root: Path, arms: Sequence[str], gain: float) -> None:
    """Two seeds, 0.01 apart, and a third that diverges; accuracies of batch_norm are higher by `gain`."""
    rows = [_row("train", arm, 64, *trial, gain) for arm in arms for trial in _trials()]
    rows += [_row("batch_size_grid", "batch_norm", size, *trial, gain) for size in (128, 32) for trial in _trials()]
    counts = [[arm, actual, predicted, 6 if actual == predicted else 2] for arm in arms for actual in CLASSES for predicted in CLASSES]
    (root / "reports/notebook").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(root / "reports/notebook/history.csv", index=False)
    pd.DataFrame(counts, columns=["arm", "actual", "predicted", "count"]).to_csv(
        root / "reports/notebook/confusion_matrix.csv", index=False
    )


def _trials():
    return [(seed, epoch) for seed in (0, 1, 2) for epoch in (1, 2)]


def _row(study, arm, batch_size, seed, epoch, gain):
    accuracy = ACCURACY[arm] + 0.01 * seed + gain * (arm == "batch_norm")
    row = {"study": study, "arm": arm, "batch_size": batch_size, "seed": seed, "epoch": epoch}
    row |= {metric: accuracy if "accuracy" in metric else 2 - accuracy for metric in EPOCH_METRICS}
    if arm == "batch_norm":
        row |= {"val_loss_recalibrated": 1.4, "val_accuracy_recalibrated": 0.625}
    return row | ({"loss": None, "accuracy": 0.99, "val_accuracy": 0.99} if (seed, epoch) == (2, 2) else {})


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The project's plots, templates and DVC configuration; the workspace has one arm more than HEAD."""
    root = tmp_path_factory.mktemp("plots")
    (root / ".dvc").mkdir()
    shutil.copytree(ROOT / ".dvc/plots", root / ".dvc/plots")
    shutil.copy(ROOT / ".dvc/config", root / ".dvc/config")
    YAML().dump({"plots": YAML().load(ROOT / "dvc.yaml")["plots"]}, root / "dvc.yaml")
    write_data(root, ("baseline", "batch_norm"), gain=0)
    run(root, "git", "init", "-q")
    run(root, "git", "add", "-A")
    run(root, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "before")
    write_data(root, ARMS, gain=0.1)
    return root


def run(root, *command, **options):
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc_plots(root, *arguments):
    return run(root, sys.executable, "-m", "dvc", "plots", *arguments)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_is_json_and_used(name):
    assert "<DVC_METRIC_DATA>" in json.dumps(json.loads(TEMPLATES[name].read_text()))
    assert name in {plot["template"] for plot in read_plots().values()}


def test_the_curve_templates_differ_in_study_and_colour_only():
    arm, size = (TEMPLATES[f"curves_by_{what}"].read_text() for what in ("arm", "batch_size"))
    by_arm, by_size = json.loads(arm), json.loads(size.replace("batch_size_grid", "train").replace('"batch_size", "<DVC', '"arm", "<DVC'))
    for template in (by_arm, by_size):
        del template["title"], template["spec"]["encoding"]["color"], template["spec"]["layer"][1]["layer"][1]["encoding"]["tooltip"]
    assert by_arm == by_size


@pytest.mark.parametrize(("name", "colours"), [("curves_by_arm", ARM_COLOURS), ("curves_by_batch_size", LEVEL_COLOURS)])
def test_colours_are_those_of_the_report(name, colours):
    scale = json.loads(TEMPLATES[name].read_text())["spec"]["encoding"]["color"]["scale"]
    assert tuple(scale["range"][: len(colours)]) == colours


def test_every_plot_names_its_axes_and_gets_its_data(repository):
    shown = json.loads(dvc_plots(repository, "show", "--json"))
    assert "errors" not in shown
    for name, plot in read_plots().items():
        assert {"title", "x_label", "y_label"} <= plot.keys()
        ((path, y),) = plot["y"].items()
        (vega,) = shown["data"][name]
        copies = len(y) if isinstance(y, list) else 1
        assert len(vega["content"]["data"]["values"]) == copies * len(pd.read_csv(repository / path))


def test_a_difference_shows_both_revisions(repository):
    shown = json.loads(dvc_plots(repository, "diff", "HEAD", "--json"))
    for name in read_plots():
        (vega,) = shown["data"][name]
        assert {row["rev"] for row in vega["content"]["data"]["values"]} == {"HEAD", "workspace"}
