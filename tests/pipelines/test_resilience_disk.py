"""A full disk, told clearly and survived: small disks in memory are mounted where something is written."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from checks.synthetic import make_files, md5_of, parameters_data
from pipeline.training.result import TrialResult
from tests.conftest import Project, clone_project
from tests.images.archives import write_archive
from tests.pipelines.test_pipeline import runs_of

pytestmark = pytest.mark.resilience

STAGE = ("python", "-m", "pipeline.train", "train", "baseline")


class Disk:
    """A disk of limited size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, size: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", self.folder], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip("a small disk cannot be mounted here")

    def grow(self) -> None:
        subprocess.run(["mount", "-o", "remount,size=100m", self.folder], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)  # MLflow keeps the store open that this process has read


@pytest.fixture
def mounted():
    """Mount a disk of some size at a folder."""
    disks = []

    def mount(folder: Path, size: str) -> Disk:
        disk = Disk(folder)
        disk.mount(size)
        disks.append(disk)
        return disk

    yield mount
    for disk in disks:
        disk.unmount()


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory) -> Project:
    project = clone_project(tmp_path_factory.mktemp("disk") / "clone")
    project.environment["TRIAL_WORKERS"] = "1"  # a second worker would work ahead, or not, as its luck is
    project.succeed("dvc", "repro", "preprocess")
    return project


@pytest.fixture
def project(preprocessed, tmp_path) -> Project:
    return preprocessed.copy(tmp_path / "project")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder on the loopback and give the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def fault(project: Project, *command: str, **environment: str) -> str:
    """What the command says when it fails: one line."""
    done = project.run(*command, **environment)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]


def assert_trials_are_whole(project: Project, tmp_path: Path, tracking_uri: str = "") -> None:
    """Every trial is finished once, its artifacts are as they were written, and its weights are in results/."""
    client = MlflowClient(tracking_uri or f"sqlite:///{project.root}/mlflow.db")
    runs = [run for run in client.search_runs(["1"], "tags.kind = 'trial'") if run.info.status == "FINISHED"]
    assert sorted(run.info.run_name for run in runs) == ["baseline-b64-s0", "baseline-b64-s1"]
    for run in runs:
        copy = tmp_path / run.info.run_name
        copy.mkdir()
        client.download_artifacts(run.info.run_id, "", str(copy))
        weights = project.root / f"results/train/baseline/weights/seed-{run.data.params['seed']}.weights.h5"
        assert TrialResult(copy).is_whole()
        assert TrialResult(copy).weights.read_bytes() == weights.read_bytes()


@pytest.mark.parametrize("over_http", [False, True])
def test_while_fetching(project, tmp_path, mounted, record_property, over_http):
    files = make_files(images_per_file=50)
    archive = write_archive(tmp_path / "cifar.tar.gz", files)
    disk = mounted(project.root / "data", "256k")
    with serving(tmp_path) as address:
        project.change("data", to=parameters_data([f"{address}/{archive.name}" if over_http else archive], md5_of(files)))
        assert fault(project, "python", "-m", "pipeline.fetch").startswith("error: no space left on the device while writing data")
        assert not list(disk.folder.iterdir())
        disk.grow()
        project.succeed("python", "-m", "pipeline.fetch")
    assert {path.name: path.read_bytes() for path in (disk.folder / "raw").iterdir()} == files
    record_property("full_disks_survived", 1)


def test_while_preprocessing(project, mounted, record_property):
    disk = mounted(project.root / "data/processed", "256k")
    assert fault(project, "python", "-m", "pipeline.preprocess").startswith(
        "error: no space left on the device while writing data/processed/"
    )
    assert not [path for path in disk.folder.iterdir() if path.name.endswith(".part")]
    disk.grow()
    project.succeed("python", "-m", "pipeline.preprocess")
    record_property("full_disks_survived", 1)


def test_while_saving_weights(project, tmp_path, mounted, record_property):
    disk = mounted(project.root / ".trials", "1m")
    assert fault(project, *STAGE).startswith(f"error: no space left on the device while writing {disk.folder}/")
    assert not list(disk.folder.iterdir())
    assert {run.info.status for run in runs_of(project)} == {"FAILED"}
    disk.grow()
    project.succeed(*STAGE)
    assert_trials_are_whole(project, tmp_path)
    record_property("full_disks_survived", 1)


def test_while_logging_weights(project, tmp_path, mounted, record_property):
    disk = mounted(project.root / "mlartifacts", "1m")
    assert fault(project, *STAGE).startswith(f"error: no space left on the device while writing {disk.folder.as_uri()}/")
    disk.grow()
    again = project.succeed(*STAGE)
    assert "finished (1/1 trials)" in again  # the other was kept, and is not trained again
    assert_trials_are_whole(project, tmp_path)
    record_property("full_disks_survived", 1)


def test_while_logging_metrics(project, tmp_path, mounted, record_property):
    disk = mounted(tmp_path / "disk", "10m")
    uri = f"sqlite:///{disk.folder}/mlflow.db"
    project.succeed("python", "-c", "from pipeline.tracking.ledger import Ledger; Ledger()", MLFLOW_TRACKING_URI=uri)
    free = int(subprocess.run(["stat", "-f", "-c", "%a", disk.folder], capture_output=True, text=True, check=True).stdout) * 4096
    (disk.folder / "of others").write_bytes(bytes(free - 400_000))
    assert "database or disk is full" in fault(project, *STAGE, MLFLOW_TRACKING_URI=uri)
    disk.grow()
    project.succeed(*STAGE, MLFLOW_TRACKING_URI=uri)
    assert_trials_are_whole(project, tmp_path, uri)
    record_property("full_disks_survived", 1)
