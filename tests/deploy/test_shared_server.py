"""Several clones of the project share one MLflow server, over PostgreSQL, an S3-compatible store and users; PostgreSQL is killed."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking.names import EXPERIMENT
from pipeline.training.result import FILES
from tests.conftest import Project, clone_project, kill_group, read_until, stage_environment
from tests.shared_server import SharedServer, running_server, wait_for

pytestmark = pytest.mark.cluster

STAGE = ("python", "-u", "-m", "pipeline.train", "train", "baseline")
TRIALS = {f"{arm}-s{seed}" for arm in ("baseline-b64", "batch_norm-b64", "batch_norm-b32") for seed in (0, 1)}
OUTAGE_SECONDS = 20
EPOCHS = 80
SOON = 60  # seconds: TensorFlow, MLflow and DVC are imported before anybody is asked


@pytest.fixture(scope="module")
def server():
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def users(server) -> dict[str, dict[str, str]]:
    return {name: server.add_user(name) for name in ("ada", "bob", "cleo")}


@pytest.fixture
def as_admin(server, monkeypatch) -> MlflowClient:
    """MLflow's client here, as the administrator; it knows nothing of the S3-compatible store."""
    for name, value in server.admin().items():
        monkeypatch.setenv(name, value)
    return MlflowClient(server.uri)


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory) -> Project:
    project = clone_project(tmp_path_factory.mktemp("shared") / "clone")
    project.succeed("dvc", "repro", "preprocess")
    return project


@pytest.fixture
def start():
    """Start a command of a project; what a failed test leaves running is killed."""
    started = []

    def start(project: Project, *command: str, **environment: str) -> subprocess.Popen[str]:
        started.append(project.start(*command, **environment))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            kill_group(process)


@pytest.fixture(scope="module")
def shared(preprocessed, server, users, tmp_path_factory) -> list[Project]:
    """Two clones, each of a user of its own, after both have run the pipeline at the same time."""
    folder = tmp_path_factory.mktemp("clones")
    clones = [preprocessed.copy(folder / name) for name in ("ada", "bob")]
    running = [clone.start("dvc", "repro", **users[name]) for clone, name in zip(clones, ("ada", "bob"), strict=True)]
    said = [process.communicate()[0] for process in running]
    for process, text in zip(running, said, strict=True):
        assert process.returncode == 0, text
        assert "Traceback" not in text
    return clones


def trials(client: MlflowClient, experiment: str = EXPERIMENT) -> list[Run]:
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id], "tags.kind = 'trial'"))


def begun(client: MlflowClient, experiment: str) -> int:
    return len(trials(client, experiment)) if client.get_experiment_by_name(experiment) else 0


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_clones_that_run_at_once_share_one_experiment_and_come_to_equal_results(shared, as_admin, record_property):
    runs = trials(as_admin)
    assert {run.info.status for run in runs} == {"FINISHED"}
    trained = Counter(run.info.run_name for run in runs)
    assert trained.keys() == TRIALS
    assert max(trained.values()) <= 2  # while both train the same trial, neither can know of the other's
    record_property("trials_trained_twice", sum(count == 2 for count in trained.values()))
    for folder in ("results/train", "results/batch_size_grid", "results/evaluate", "reports"):
        assert digests(shared[0].root / folder) == digests(shared[1].root / folder), folder


def test_both_users_have_logged(shared, as_admin):
    models = as_admin.search_registered_models()
    assert [model.name for model in models] == ["cifar10-mlp"]
    experiment = as_admin.get_experiment_by_name(EXPERIMENT)
    reports = as_admin.search_runs([experiment.experiment_id], "tags.kind = 'report'")
    assert [run.info.status for run in reports] == ["FINISHED", "FINISHED"]


def test_artifacts_come_through_the_server_from_the_store(shared, server, as_admin, tmp_path):
    for run in trials(as_admin):
        assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
        folder = tmp_path / run.info.run_id
        folder.mkdir()
        for name in FILES:
            as_admin.download_artifacts(run.info.run_id, name, str(folder))
        kept = [path for path in (server.folder / "s3/mlflow").rglob(f"*{run.info.run_id}/artifacts/*") if path.name in FILES]
        assert {path.name: path.read_bytes() for path in kept} == {name: (folder / name).read_bytes() for name in FILES}


def test_a_clone_that_comes_later_finds_the_trials_of_the_first_and_trains_nothing(shared, preprocessed, users, as_admin, tmp_path):
    before = {run.info.run_id for run in trials(as_admin)}
    clone = preprocessed.copy(tmp_path / "cleo")
    said = clone.succeed("dvc", "repro", **users["cleo"])
    assert said.count("2 of 2 trials are in the ledger already") == 4
    assert {run.info.run_id for run in trials(as_admin)} == before
    for folder in ("results/train", "results/batch_size_grid", "results/evaluate", "reports"):
        assert digests(clone.root / folder) == digests(shared[0].root / folder), folder


def test_a_trial_that_two_clones_train_at_the_same_time_is_there_twice_and_equal(start, preprocessed, users, as_admin, tmp_path):
    clones = {name: with_long_trials(preprocessed, tmp_path / name, EPOCHS - 1) for name in ("ada", "bob")}
    stages: dict[str, subprocess.Popen[str]] = {}
    for name, clone in clones.items():
        stages[name] = start(clone, *STAGE, **users[name], MLFLOW_EXPERIMENT_NAME="at the same time")
        wait_for("a trial to begin", lambda: begun(as_admin, "at the same time") == len(stages), 120)
        os.killpg(stages[name].pid, signal.SIGSTOP)  # until the other has begun, too
    for stage in stages.values():
        os.killpg(stage.pid, signal.SIGCONT)
    for stage in stages.values():
        rest, _ = stage.communicate()
        assert stage.returncode == 0, rest
    runs = trials(as_admin, "at the same time")
    assert sorted(run.info.run_name for run in runs) == ["baseline-b64-s0"] * 2 + ["baseline-b64-s1"] * 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len({run.data.tags["trial_key"] for run in runs}) == 2
    assert digests(clones["ada"].root / "results/train") == digests(clones["bob"].root / "results/train")


DRIVER = """
import os
from pipeline.tracking import ledger as tracking
while name := input():
    os.environ["MLFLOW_EXPERIMENT_NAME"] = name
    with tracking.Ledger() as ledger, ledger.evaluation({"test": "0" * 32}):
        print("logged", flush=True)
"""


def test_drivers_of_several_machines_that_begin_at_once_share_a_new_experiment(server, users, as_admin):
    command, variables = [sys.executable, "-c", DRIVER], {**stage_environment(), **users["ada"]}
    drivers = [subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for name in ("first", "second", "third", ""):
            for driver in drivers:
                driver.stdin.write(f"{name}\n")
                driver.stdin.flush()
            assert [driver.stdout.readline() for driver in drivers if name] == ["logged\n"] * (3 if name else 0)
        assert [driver.wait(60) for driver in drivers] == [0, 0, 0]
    finally:
        for driver in drivers:
            driver.kill()
            driver.communicate()
    for name in ("first", "second", "third"):
        experiment = as_admin.get_experiment_by_name(name)
        runs = as_admin.search_runs([experiment.experiment_id])
        assert [(run.info.status, len(run.inputs.dataset_inputs)) for run in runs] == [("FINISHED", 1)] * 3


class Outage:
    """Kills PostgreSQL with all its processes, and hangs up on whoever asks for it until the time is over; counts them."""

    def __init__(self, server: SharedServer) -> None:
        self.calls = 0
        self._listener = self._in_the_place_of_postgresql(server)
        self._thread = threading.Thread(target=self._hang_up, daemon=True)
        self._thread.start()

    def _in_the_place_of_postgresql(self, server: SharedServer) -> socket.socket:
        deadline = time.monotonic() + 60
        while True:
            with suppress(psutil.NoSuchProcess, AssertionError):  # it has not been started again yet
                postgresql = server.postgresql()
                for process in [postgresql, *postgresql.children(recursive=True)]:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
            try:
                return socket.create_server(("127.0.0.1", server.database_port))
            except OSError:  # it still ends, or was quicker
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def _hang_up(self) -> None:
        with suppress(OSError):  # the end
            while True:
                self._listener.accept()[0].close()
                self.calls += 1

    def end(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


def with_long_trials(preprocessed: Project, root: Path, epochs: int) -> Project:
    """A clone whose trials take so long that something can happen to them; another number of epochs makes other trials."""
    project = preprocessed.copy(root)
    project.environment["TRIAL_WORKERS"] = "1"  # a second worker would work ahead, or not, as its luck is
    project.change("trial", "epochs", to=epochs)
    return project


def assert_whole(client: MlflowClient, run: Run, rows: pd.DataFrame) -> None:
    """Every metric of every epoch is in the run, once."""
    metrics = rows.drop(columns=["arm", "batch_size", "seed", "epoch"])
    logged = {name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)) for name in metrics}
    assert logged == {name: list(zip(rows["epoch"], metrics[name], strict=True)) for name in metrics}
    assert {entry.path for entry in client.list_artifacts(run.info.run_id)} >= set(FILES)


@pytest.mark.parametrize("seconds", [0, OUTAGE_SECONDS])
def test_postgresql_that_is_killed_in_mid_run_and_comes_back_is_waited_for(
    start, preprocessed, server, users, as_admin, tmp_path, record_property, seconds
):
    long = with_long_trials(preprocessed, tmp_path / "project", EPOCHS + seconds)
    experiment = f"outage of {seconds} s"
    stage = start(long, *STAGE, **users["ada"], MLFLOW_EXPERIMENT_NAME=experiment)
    read_until(stage, "finished (1/2 trials)")
    refused = server.log("mlflow").count("503 Service Unavailable")
    began = time.monotonic()
    outage = Outage(server)
    time.sleep(seconds)  # the outage itself
    outage.end()
    rest, _ = stage.communicate()
    assert stage.returncode == 0, rest
    record_property("postgresql_killed", 1)
    record_property("seconds_from_kill_to_end", round(time.monotonic() - began, 1))
    record_property("requests_refused", server.log("mlflow").count("503 Service Unavailable") - refused)
    record_property("calls_of_the_database_hung_up_on", outage.calls)
    assert "Traceback" not in rest
    runs = trials(as_admin, experiment)
    assert sorted(run.info.run_name for run in runs) == ["baseline-b64-s0", "baseline-b64-s1"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    history = pd.read_csv(long.root / "results/train/baseline/history.csv")
    for run in runs:
        assert_whole(as_admin, run, history[history["seed"] == int(run.data.params["seed"])])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"MLFLOW_TRACKING_PASSWORD": "guessed"}, "401"),
        ({"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}, "401"),
    ],
    ids=["wrong password", "no password"],
)
def test_who_may_not_log_in_hears_so_soon_in_one_line(preprocessed, users, wrong, reason):
    assert reason in refusal(preprocessed, {**users["ada"], **wrong})


def refusal(project: Project, variables: dict[str, str]) -> str:
    """The one line in which the pipeline says why it ends, before anything is trained."""
    began = time.monotonic()
    done = project.run(*STAGE, **variables)
    assert done.returncode == 1
    assert time.monotonic() - began < SOON
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: tracking store {variables['MLFLOW_TRACKING_URI']} cannot be used: ")
    assert not (project.root / ".trials").exists()
    return line


@pytest.fixture
def certificate(server) -> Path:
    certificate, key = server.folder / "certificate.pem", server.folder / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    return certificate


def test_over_tls_it_is_the_certificate_that_counts(server, users, preprocessed, certificate, tmp_path):
    server.end(signal.SIGTERM)
    server.start(UVICORN_SSL_CERTFILE=str(certificate), UVICORN_SSL_KEYFILE=str(certificate.with_name("key.pem")))
    over_tls = {**users["ada"], "MLFLOW_TRACKING_URI": server.uri}
    assert server.uri.startswith("https://")
    assert "certificate" in refusal(preprocessed, over_tls).lower()
    project = preprocessed.copy(tmp_path / "project")
    project.succeed(*STAGE, **over_tls, MLFLOW_TRACKING_SERVER_CERT_PATH=str(certificate), MLFLOW_EXPERIMENT_NAME="over TLS")
    server.end(signal.SIGTERM)
    server.start()
