"""The MLflow UI over a real store, in a browser that has never seen it: what a newcomer finds without any set-up."""

import json
import re
import socket

import pytest

from tests.chromium import browser
from tests.conftest import kill_group, read_until

pytestmark = pytest.mark.browser

VISIBLE_TEXT = "document.body.innerText"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def ui(built, tmp_path_factory):
    """`make ui` over the runs of a small pipeline; gives the addresses that it says, by the name of what they show."""
    project = built.copy(tmp_path_factory.mktemp("ui") / "clone")
    server = project.start("python", "-u", "-m", "pipeline.tracking.ui", "--port", str(free_port()))
    addresses = {}
    for line in server.stdout:
        if "://" in line:
            name, _, address = line.partition(": ")
            addresses[name.strip()] = address.strip()
        if "stop it with Ctrl-C" in line:
            break
    read_until(server, "Application startup complete")
    yield addresses
    kill_group(server)


@pytest.fixture(scope="module")
def tab(ui):
    with browser(1600, 1000) as started:
        yield started


@pytest.fixture
def store(ui):
    return re.match(r"http://127\.0\.0\.1:\d+", next(iter(ui.values()))).group()


def show(tab, address: str, *texts: str) -> str:
    """Open an address of the UI anew and give its text, once it has these texts."""
    tab.open("about:blank")  # else another fragment would not load the page again
    tab.open(address)
    for text in texts:
        tab.wait_for(f"{VISIBLE_TEXT}.includes({json.dumps(text)})")
    return tab.run(f"return {VISIBLE_TEXT}")


def test_the_table_shows_names_arms_and_studies_without_any_set_up(tab, store):
    text = show(tab, f"{store}/#/experiments/1/runs?workflowType=machine_learning", "baseline-b64-s0", "batch_norm-b32-s1")
    assert {"train", "batch_size_grid", "report", "evaluation"} <= set(text.split("\n"))  # in the column Source
    assert "cifar10-train" in text
    assert "Training runs of the Batch Normalization laboratory" in text


def test_the_menu_offers_every_view(tab, store, ui):
    show(tab, f"{store}/#/experiments/1/runs?workflowType=machine_learning", "Views")
    tab.driver.find_element("css selector", "[data-testid=saved-views-trigger]").click()
    tab.wait_for(f"{VISIBLE_TEXT}.includes('Save as new view')")
    text = tab.run(f"return {VISIBLE_TEXT}")
    assert all(name in text for name in ui)
    positions = [text.rindex(name) for name in ui]
    assert positions == sorted(positions)


def test_all_trials_have_few_and_telling_columns(tab, ui):
    text = show(tab, ui["All trials"], "baseline-b64-s0", "val_accuracy")
    headings = tab.run("return [...document.querySelectorAll('[role=columnheader]')].map(cell => cell.innerText.trim()).filter(Boolean)")
    assert {"Run Name", "val_accuracy", "val_loss", "train_eval_accuracy"} <= set(headings)
    assert not {"batch_norm_epsilon", "kernel_gain", "Source"} & set(headings)
    assert "report" not in text.split("\n")


def test_curves_are_means_over_the_seeds_of_an_arm(tab, ui):
    text = show(tab, ui["Mean curves by arm"], "Group: arm: baseline", "Group: arm: batch_norm", "val_accuracy_recalibrated")
    tab.wait_for("document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length >= 6")
    assert "Step" in text
    steps = tab.run(
        "return [...document.querySelectorAll('.js-plotly-plot')].map(plot => (plot.data || []).map(line => [...(line.x || [])].join()))"
    )
    assert {line for plot in steps for line in plot if line} <= {"1,2", "2,1,,1,2"}  # epochs, and the band around their mean


def test_the_reports_run_shows_the_report_and_its_figures(tab, store, built):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{built.root}/mlflow.db")
    [run] = client.search_runs(["1"], "tags.kind = 'report'")
    show(tab, f"{store}/#/experiments/1/runs/{run.info.run_id}/artifacts/report.html", "report.html", "figures")
    tab.wait_for("[...document.querySelectorAll('iframe')].length == 1")
    frame = tab.driver.find_element("css selector", "iframe")
    tab.driver.switch_to.frame(frame)
    tab.wait_for("document.querySelector('h1') && document.querySelector('h1').innerText.includes('Batch Normalization')")
    tab.driver.switch_to.default_content()


def test_a_trial_has_a_note_its_data_and_its_model(tab, store, built):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{built.root}/mlflow.db")
    [run] = client.search_runs(["1"], "tags.arm = 'batch_norm' and params.seed = '0' and params.batch_size = '64'")
    text = show(tab, f"{store}/#/experiments/1/runs/{run.info.run_id}", "One training of arm", "cifar10-train", "val_accuracy")
    assert "batch_norm at batch size 64, seed 0" in text
    tab.wait_for(f"{VISIBLE_TEXT}.includes('Logged models (1)')")


def test_compared_runs_share_the_steps_of_their_curves(tab, store, built):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{built.root}/mlflow.db")
    runs = [run.info.run_id for run in client.search_runs(["1"], "tags.kind = 'trial' and params.batch_size = '64' and params.seed = '0'")]
    assert len(runs) == 2
    histories = [[point.step for point in client.get_metric_history(run, "val_accuracy")] for run in runs]
    assert histories == [[1, 2], [1, 2]]
    chosen = f"runs={json.dumps(runs)}&experiments={json.dumps(['1'])}".replace('"', "%22")
    text = show(tab, f"{store}/#/compare-runs?{chosen}", "Parallel Coordinates Plot", "Box Plot", "batch_norm-b64-s0", "baseline-b64-s0")
    assert "normalization" in text


def test_the_model_that_was_submitted_has_its_card(tab, store, built):
    text = show(tab, f"{store}/#/models/cifar10-mlp/versions/1", "Version 1", "How it was chosen")
    assert "uint8 images" in text


def test_nothing_is_fetched_from_elsewhere(tab, store, ui):
    show(tab, ui["All trials"], "baseline-b64-s0")
    asked = tab.requests_elsewhere()
    assert asked
    assert not [url for url in asked if not url.startswith(store)]
