"""A tracking store that is locked, gone, or shared by many: nothing that was measured is lost."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from pipeline.tracking.ledger import Ledger
from pipeline.tracking.names import EXPERIMENT
from pipeline.training.result import TrialResult, save_result
from pipeline.trials.parameters import load_parameters
from tests.conftest import ROOT, Project, clone_project, read_until

pytestmark = pytest.mark.resilience

STAGE = ("python", "-u", "-m", "pipeline.train", "train", "baseline")
SEEDS = [0, 1]
EPOCHS = 80
WRITERS, RUNS, ROWS = 4, 5, 40


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory) -> Project:
    project = clone_project(tmp_path_factory.mktemp("mlflow") / "clone")
    project.environment["TRIAL_WORKERS"] = "1"  # a second worker would work ahead, or not, as its luck is
    project.change("trial", "epochs", to=EPOCHS)
    project.change("studies", "train", "seeds", to=SEEDS)
    project.succeed("dvc", "repro", "preprocess")
    return project


@pytest.fixture
def project(preprocessed, tmp_path) -> Project:
    return preprocessed.copy(tmp_path / "project")


class Server:
    """An MLflow server on a port of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.port = unused.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._stores = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/artifacts"]

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._process = subprocess.Popen(
            [*command, *self._stores],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        read_until(self._process, "Application startup complete")
        self._reader = threading.Thread(target=self._process.stdout.read, daemon=True)  # a full pipe would stop the server
        self._reader.start()

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._reader.join()  # the pipe ends with the last of its processes, and only then is the port free

    def hang_up(self, times: int) -> None:
        """While the server is dead: take that many calls, and hang up on each."""
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            listener.settimeout(120)
            for _ in range(times):
                listener.accept()[0].close()


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def runs_in(tracking_uri: str) -> list:
    client = MlflowClient(tracking_uri)
    return client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id], "tags.kind = 'trial'")


def lost_runs(project: Project, tracking_uri: str) -> int:
    """How many trials have no finished run that holds every metric of every epoch in results/, and the files."""
    client = MlflowClient(tracking_uri)
    history = pd.read_csv(project.root / "results/train/baseline/history.csv")
    assert history.groupby("seed").size().to_dict() == dict.fromkeys(SEEDS, EPOCHS)
    finished = {int(run.data.params["seed"]): run.info.run_id for run in runs_in(tracking_uri) if run.info.status == "FINISHED"}
    return sum(seed not in finished or not _is_whole(client, finished[seed], rows) for seed, rows in history.groupby("seed"))


def _is_whole(client: MlflowClient, run_id: str, rows: pd.DataFrame) -> bool:
    metrics = rows.drop(columns=["arm", "batch_size", "seed", "epoch"])
    logged = {name: {point.step: point.value for point in client.get_metric_history(run_id, name)} for name in metrics}
    files = {entry.path for entry in client.list_artifacts(run_id)}
    expected = {name: dict(zip(rows["epoch"], metrics[name], strict=True)) for name in metrics}
    return logged == expected and {"history.csv", "model.weights.h5", "sha256.json"} <= files


def assert_nothing_is_lost(project: Project, tracking_uri: str, record_property) -> None:
    lost = lost_runs(project, tracking_uri)
    record_property("runs_lost", lost)
    assert lost == 0
    assert {run.info.status for run in runs_in(tracking_uri)} <= {"FINISHED", "KILLED"}
    record_property("outages_survived", 1)


def test_a_store_that_another_process_locks_for_half_a_minute_is_waited_for(project, record_property):
    stage = project.start(*STAGE)
    read_until(stage, "finished (1/2 trials)")
    with closing(sqlite3.connect(project.root / "mlflow.db", isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN EXCLUSIVE")
        locked = time.monotonic()
        while time.monotonic() - locked < 30:
            read_until(stage, "another process keeps the tracking store locked; waiting for it")
        other.execute("ROLLBACK")
    rest, _ = stage.communicate()
    assert stage.returncode == 0, rest
    assert "Traceback" not in rest
    assert_nothing_is_lost(project, f"sqlite:///{project.root}/mlflow.db", record_property)


def test_a_server_that_is_down_is_told_before_anything_is_trained(project):
    done = project.run(*STAGE, MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: tracking store http://127.0.0.1:1 cannot be used: ")
    assert "Traceback" not in done.stderr
    assert not (project.root / ".trials").exists()


def test_a_server_that_dies_and_comes_back_within_a_minute_is_waited_for(project, server, record_property):
    stage = project.start(*STAGE, MLFLOW_TRACKING_URI=server.uri)
    read_until(stage, "finished (1/2 trials)")
    server.kill()
    server.hang_up(times=4)  # half a minute: MLflow waits twice as long before each call
    server.start()
    rest, _ = stage.communicate()
    assert stage.returncode == 0, rest
    assert_nothing_is_lost(project, server.uri, record_property)


def test_what_a_server_that_stays_away_has_missed_is_logged_at_the_next_start(project, server, record_property):
    stage = project.start(*STAGE, MLFLOW_TRACKING_URI=server.uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="3")
    read_until(stage, "finished (1/2 trials)")
    server.kill()
    rest, _ = stage.communicate()
    assert stage.returncode == 1
    assert f"error: tracking store {server.uri} cannot be used: " in rest
    assert "Traceback" not in rest
    assert len(list((project.root / ".trials").glob("[!.]*"))) == len(SEEDS)
    server.start()
    again = project.succeed(*STAGE, MLFLOW_TRACKING_URI=server.uri)
    assert "finished (" not in again  # nothing was trained
    assert_nothing_is_lost(project, server.uri, record_property)


def log_runs(writer: int) -> None:
    """What each of several processes does at once."""
    ledger = Ledger()
    config = load_parameters(ROOT / "params.yaml").trial_config("baseline", {}, seed=writer)
    history = pd.DataFrame({"epoch": range(1, ROWS + 1), "val_accuracy": [writer + row / ROWS for row in range(ROWS)]})
    result = TrialResult(Path(f"result-{writer}"))
    save_result(result, history.assign(loss=1.0, accuracy=0.5), lambda path: path.write_bytes(b"weights"))
    for number in range(RUNS):
        run_id = ledger.start(f"{writer}-{number}", config, {"kind": "trial", "data_md5": "0" * 32}, "")
        for metrics in history.to_dict("records"):
            ledger.log_epochs(run_id, [(metrics, None)])
        ledger.finish(run_id, result)


def test_four_processes_that_log_at_once_lose_nothing(tmp_path, record_property):
    program = "import sys; from tests.pipelines.test_resilience_mlflow import log_runs; log_runs(int(sys.argv[1]))"
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(writer)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
        for writer in range(WRITERS)
    ]
    assert [process.wait() for process in writers] == [0] * WRITERS
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    runs = {run.info.run_name: run for run in runs_in(uri)}
    expected = [row / ROWS for row in range(ROWS)]
    whole = 0
    for writer in range(WRITERS):
        for number in range(RUNS):
            points = MlflowClient(uri).get_metric_history(runs[f"{writer}-{number}"].info.run_id, "val_accuracy")
            whole += sorted(point.value for point in points) == [writer + value for value in expected]
    record_property("runs_lost", WRITERS * RUNS - whole)
    assert whole == WRITERS * RUNS
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
