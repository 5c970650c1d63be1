"""Experiments with DVC, in the workspace, in folders of their own and in its queue, with their runs in the project's store."""

import json
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.common.files import remove
from tests.conftest import Project, clone_project, made_once
from tests.pipelines.test_pipeline import stages_run

pytestmark = pytest.mark.cluster

QUEUED = {"slow": "0.0003", "slower": "0.0002"}
QUEUE_SECONDS = 1500


def built_small(tmp_path_factory) -> Project:
    """A clone with one seed, one epoch and one batch size, after its first `dvc repro`, its results committed, without its runs."""

    def build(root: Path) -> None:
        project = clone_project(root)
        project.change("trial", "epochs", to=1)
        for study in ("train", "batch_size_grid"):
            project.change("studies", study, "seeds", to=[0])
        project.change("studies", "batch_size_grid", "grid", "batch_size", to=[64])
        project.succeed("dvc", "repro")
        project.succeed("python", "-m", "pipeline.reporting.readme")
        project.commit("results")
        for path in (root / "mlartifacts", *root.glob("mlflow.db*")):  # a store knows where it was made, and copies are made of this
            remove(path)

    return made_once("built-small", tmp_path_factory, build)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    project = built_small(tmp_path_factory).copy(tmp_path_factory.mktemp("experiments") / "a project")
    yield project
    project.run("dvc", "queue", "stop", "--kill")


@pytest.fixture(scope="module")
def said(project) -> dict[str, str]:
    """What each experiment said: two from the queue at once, one that shares its trials, one in a folder of its own, one plain."""
    for name, rate in QUEUED.items():
        project.succeed("dvc", "exp", "run", "--queue", "--name", name, "--set-param", f"trial.learning_rate={rate}")
    shared = ("--set-param", "trial.learning_rate=0.0002", "--set-param", "studies.train.arms=[batch_norm,baseline]")
    project.succeed("dvc", "exp", "run", "--queue", "--name", "shared", *shared)
    project.succeed("dvc", "queue", "start", "--jobs", "2")
    wait_for_queue(project)
    said = {name: project.succeed("dvc", "queue", "logs", name) for name in (*QUEUED, "shared")}
    said["apart"] = project.succeed("dvc", "exp", "run", "--temp", "--name", "apart", "--set-param", "trial.learning_rate=0.0004")
    assert project.succeed("git", "status", "--porcelain") == ""
    said["plain"] = project.succeed("dvc", "exp", "run", "--name", "plain", "--set-param", "trial.learning_rate=0.0006")
    return said


def wait_for_queue(project: Project) -> None:
    """Wait until all has been run and the workers have ended."""
    deadline = time.monotonic() + QUEUE_SECONDS
    while "Running" in (status := project.succeed("dvc", "queue", "status")) or "Queued" in status or "0 active, 0 idle" not in status:
        assert time.monotonic() < deadline, status
        time.sleep(1)
    assert "Failed" not in status, status


def runs_of(project: Project) -> list[Run]:
    """All runs of the store, in every experiment of MLflow's."""
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def test_every_run_finished_in_the_experiment_of_the_project(project, said):
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    runs = runs_of(project)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {client.get_experiment(run.info.experiment_id).name for run in runs} == {"cifar10-batch-norm"}
    assert all(run.info.artifact_uri.startswith((project.root / "mlartifacts").as_uri()) for run in runs)


@pytest.mark.parametrize(("experiment", "rate"), [*QUEUED.items(), ("apart", "0.0004"), ("plain", "0.0006")])
def test_its_runs_are_found_by_the_name_of_the_experiment(project, said, experiment, rate):
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    mlflow_experiment = client.get_experiment_by_name("cifar10-batch-norm")
    runs = client.search_runs([mlflow_experiment.experiment_id], f"tags.`dvc.experiment` = '{experiment}'")
    assert {run.data.tags["kind"] for run in runs} >= {"evaluation", "report"}
    trials = [run for run in runs if run.data.tags["kind"] == "trial"]
    assert {run.data.params["learning_rate"] for run in trials} <= {rate}
    assert all(run.data.tags["dvc.stage"] for run in runs)


def test_a_trial_is_trained_once_and_belongs_to_the_experiment_that_trained_it(project, said):
    trials = [run for run in runs_of(project) if run.data.tags["kind"] == "trial"]
    assert len({run.data.tags["trial_key"] for run in trials}) == len(trials) == 2 * 4  # two arms; four learning rates
    trained_by = {run.data.tags["dvc.experiment"] for run in trials if run.data.params["learning_rate"] == "0.0002"}
    assert trained_by <= {"slower", "shared"}


def test_data_is_taken_from_the_cache(said):
    assert not [name for name, text in said.items() if stages_run(text) & {"fetch", "preprocess"}]


def test_no_experiment_was_refused_a_lock(said):
    for text in said.values():
        assert not [fault for fault in ("is busy", "Unable to acquire lock", "database is locked", "Traceback", "ERROR") if fault in text]


def test_one_experiment_trains_at_a_time(said):
    assert any("waiting for another process that runs trials of this project" in said[name] for name in QUEUED)


def test_dvc_shows_the_metrics_of_every_experiment(project, said):
    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    experiments = {entry["revs"][0]["name"]: entry["revs"][0]["data"] for row in shown for entry in row["experiments"] or []}
    assert experiments.keys() == said.keys()
    for data in experiments.values():
        assert data["metrics"]["reports/notebook/metrics.json"]["data"]["train"]["batch_norm"]


def test_nothing_is_left_of_the_folders_where_experiments_ran(project, said):
    assert not list((project.root / ".dvc/tmp/exps").glob("tmp*"))
    assert not list((project.root / ".dvc/tmp/exps/standalone").glob("tmp*"))
    assert not list(project.root.glob("**/.*.part"))
    assert project.succeed("git", "ls-files", "--others", "--exclude-standard") == ""
