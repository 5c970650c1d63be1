"""The real server with the model of a small pipeline: its answers against what `evaluate` stored, to the last bit."""

import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import requests
from mlflow import MlflowClient

from pipeline.images.cifar10 import CLASSES
from tests.tracking.test_browser_ui import free_port

pytestmark = pytest.mark.browser


SUBMIT = """
from pathlib import Path
import pandas as pd
from pipeline.trials.parameters import load_parameters
from pipeline.serving.submission import submit
folder, config = Path("results/train/batch_norm"), load_parameters().trial_config
trials = {("batch_norm", seed): (config("batch_norm", {}, seed), folder / f"weights/seed-{seed}.weights.h5") for seed in (0, 1)}
print(submit({"batch_norm": pd.read_csv(folder / "history.csv")}, trials, Path("results/evaluate")))
"""


@pytest.fixture(scope="module")
def project(built, tmp_path_factory):
    """A copy of the small pipeline in which both arms were submitted, whatever the gate said of so short a training."""
    project = built.copy(tmp_path_factory.mktemp("serving") / "clone")
    project.succeed("python", "-c", SUBMIT)
    return project


@pytest.fixture(scope="module", params=["baseline", "batch_norm"])
def champion(project, request):
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    versions = client.search_model_versions("name = 'cifar10-mlp'")
    chosen = next((version for version in versions if version.tags["arm"] == request.param), None)
    if chosen is None:
        pytest.fail(f"{request.param} was not submitted")
    client.set_registered_model_alias("cifar10-mlp", "champion", chosen.version)
    return chosen


@pytest.fixture(scope="module")
def server(project, champion):
    process = project.start("python", "-u", "-m", "pipeline.serving.serve", "--port", str(free_port()))
    address = next((line.split(" at ")[1].split(";")[0] for line in process.stdout if line.startswith("serving ")), None)
    assert address, "the server did not start"
    yield address
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert "Traceback" not in said


def ask(server: str, images: np.ndarray) -> np.ndarray:
    answer = requests.post(server, json={"inputs": images.tolist()}, timeout=60)
    assert answer.status_code == 200, answer.text
    return np.array([[row["probabilities"][name] for name in CLASSES] for row in answer.json()["predictions"]], np.float32)


def test_its_answers_are_the_stored_predictions(project, champion, server):
    images = np.load(project.root / "data/processed/test/images.npy")
    stored = np.load(project.root / f"results/evaluate/predictions/{champion.tags['arm']}/seed-{champion.tags['seed']}.npy")
    for chosen in (slice(0, 1), slice(3, 4), slice(0, 2), slice(5, 22), slice(0, 50)):
        answers = ask(server, images[chosen])
        folded = not champion.tags["form"].startswith("as trained")
        np.testing.assert_allclose(answers, stored[chosen], atol=1e-4 if folded else 1e-5)  # other kernels round differently


def test_the_readmes_request_names_a_class(project, server):
    command = ["curl", "--silent", "--fail", server, "--header", "Content-Type: application/json"]
    sent = subprocess.run([*command, "--data", "@results/evaluate/example_request.json"], cwd=project.root, capture_output=True, check=True)
    [answer] = json.loads(sent.stdout)["predictions"]
    assert answer["class"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({"json": {"inputs": [[1, 2], [3, 4]]}}, 400, "shape"),
        ({"json": {"inputs": np.full((1, 32, 32, 3), 0.5).tolist()}}, 400, "decimal point"),
        ({"json": {"instances": np.full((1, 32, 32, 3), 256).tolist()}}, 400, "0 to 255"),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "JSON"),
        ({"data": b"1,2", "headers": {"Content-Type": "text/csv"}}, 415, "application/json"),
        ({"data": b" " * 2**23, "headers": {"Content-Type": "application/json"}}, 413, "4 MB"),
    ],
    ids=["shape", "type", "range", "broken", "csv", "size"],
)
def test_what_it_cannot_answer_is_explained_and_it_goes_on(server, sent, status, words):
    answer = requests.post(server, timeout=60, **sent)
    assert (answer.status_code, words in answer.json()["message"]) == (status, True), answer.text
    assert ask(server, np.zeros((1, 32, 32, 3), int)).shape == (1, 10)


def test_it_listens_on_this_machine_alone(server):
    assert server.startswith("http://127.0.0.1:")
    port = int(server.split(":")[2].split("/")[0])
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"]
    assert [entry.split(":")[0] for entry in listening if int(entry.split(":")[1], 16) == port] == ["0100007F"]
