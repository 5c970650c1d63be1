"""`mlflow run` in a clone of the project, on synthetic data."""

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from checks.clone import Clone
from tests.conftest import ROOT, clone_project

pytestmark = pytest.mark.laboratory

RUN = ("mlflow", "run", ".", "--env-manager=local")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Clone:
    project = clone_project(tmp_path_factory.mktemp("mlproject") / "clone")
    project.change("trial", "epochs", to=1)
    return project


@pytest.fixture(scope="module")
def client(project) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project.root}/mlflow.db")


def test_trial_is_one_run_with_its_overrides_under_the_projects_run(project, client):
    project.succeed(*RUN, "-e", "trial", "-P", "batch_size=32", "-P", "epochs=2", "-P", "seed=3")
    project_run, trial = sorted(client.search_runs(["0"]), key=lambda run: run.info.start_time)
    assert project_run.info.status == trial.info.status == "FINISHED"
    assert trial.info.run_name == "batch_norm-b32-epochs=2-s3"
    assert trial.data.tags["mlflow.parentRunId"] == project_run.info.run_id
    assert {"batch_size": "32", "epochs": "2", "seed": "3", "normalization": "batch"}.items() <= trial.data.params.items()
    assert project_run.data.metrics["val_accuracy"] == trial.data.metrics["val_accuracy"]


def test_main_gives_one_run_per_trial_grouped_under_the_projects_run(project, client):
    before = {run.info.run_id for run in client.search_runs(["0"])}
    project.succeed(*RUN)
    runs = [run for run in client.search_runs(["0"]) if run.info.run_id not in before]
    [project_run] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == project_run.info.run_id]
    assert len(children) == len(runs) - 1
    assert {run.data.tags["kind"] for run in children} == {"trial", "evaluation", "report"}
    assert len({run.info.run_name for run in children}) == len(children) == 8


def test_a_wrong_override_is_one_clear_error(project):
    done = project.run(*RUN, "-e", "trial", "-P", "learning_rate=-1")
    assert done.returncode != 0
    assert "error: command line: learning_rate: Input should be greater than 0" in done.stdout + done.stderr


def test_the_entry_points_defaults_are_those_of_params_yaml(parameters):
    declared = YAML(typ="safe").load(ROOT / "MLproject")["entry_points"]["trial"]["parameters"]
    for name in ("batch_size", "learning_rate", "epochs"):
        assert declared[name]["default"] == getattr(parameters.trial, name)
    assert declared["model"]["default"] in parameters.arms
