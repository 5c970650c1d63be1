"""The whole pipeline with DVC and MLflow, in a clone of the project, on synthetic data."""

import json

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML

from checks.clone import Clone


@pytest.fixture(scope="module")
def project(built, tmp_path_factory) -> Clone:
    """A copy of the clone after its first `dvc repro`."""
    return built.copy(tmp_path_factory.mktemp("pipeline") / "clone")


def runs_of(project: Clone, kind: str = "trial") -> list[Run]:
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    experiment = client.get_experiment_by_name("cifar10-batch-norm")
    return client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'")


def stages_run(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def test_every_distinct_trial_is_one_finished_run(project):
    runs = runs_of(project)
    names = {f"baseline-b64-s{seed}" for seed in (0, 1)} | {f"batch_norm-b{size}-s{seed}" for size in (32, 64) for seed in (0, 1)}
    assert sorted(run.info.run_name for run in runs) == sorted(names)
    assert {run.info.status for run in runs} == {"FINISHED"}
    shared = [run for run in runs if run.info.run_name.startswith("batch_norm-b64")]
    assert {run.data.tags["study"] for run in shared} == {"batch_size_grid,train"}
    assert {run.data.tags["git.dirty"] for run in runs} == {"true"}  # dvc.lock is new


def test_the_models_of_train_are_logged(project):
    with_model = {run.info.run_name for run in runs_of(project) if run.outputs.model_outputs}
    assert with_model == {f"{arm}-b64-s{seed}" for arm in ("baseline", "batch_norm") for seed in (0, 1)}


def test_the_report_is_a_run_with_its_files(project):
    [run] = runs_of(project, "report")
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    assert {"report.html", "report.md", "metrics.json", "figures"} <= {entry.path for entry in client.list_artifacts(run.info.run_id)}
    metrics = json.loads((project.root / "reports/notebook/metrics.json").read_text())
    assert run.data.metrics["report_batch_norm_test_accuracy"] == metrics["train"]["batch_norm"]["test"]["accuracy"]["mean"]


def test_histories_hold_every_epoch_of_every_trial(project):
    history = pd.read_csv(project.root / "reports/notebook/history.csv")
    counts = history.groupby(["study", "arm", "batch_size"]).size().to_dict()
    assert counts == {
        ("train", "baseline", 64): 4,
        ("train", "batch_norm", 64): 4,
        ("batch_size_grid", "batch_norm", 32): 4,
        ("batch_size_grid", "batch_norm", 64): 4,
    }


def test_the_test_set_is_measured_for_every_trial_of_train(project):
    table = pd.read_csv(project.root / "results/evaluate/trials.csv")
    assert table[["arm", "seed"]].to_numpy().tolist() == [[arm, seed] for arm in ("baseline", "batch_norm") for seed in (0, 1)]
    assert pd.read_csv(project.root / "results/evaluate/confusion_matrix.csv")["count"].sum() == 4 * 50


def test_a_second_repro_has_nothing_to_do(project):
    before = len(runs_of(project)), len(runs_of(project, "report"))
    output = project.succeed("dvc", "repro")
    assert "up to date" in output
    assert not stages_run(output)
    assert (len(runs_of(project)), len(runs_of(project, "report"))) == before


def test_metrics_plots_and_parameters_can_be_shown_and_compared(project):
    assert "reports/notebook/metrics.json" in project.succeed("dvc", "metrics", "show", "--json")
    assert json.loads(project.run("dvc", "metrics", "diff", "--json").stdout) == {}  # beside it, DVC misses the claims' metrics
    assert "trial" in project.succeed("dvc", "params", "diff", "--all", "--json")
    project.succeed("dvc", "plots", "show")
    assert "baseline" in (project.root / "dvc_plots/index.html").read_text()


def test_arms_are_compared_in_the_terminal_as_in_the_report(project):
    table = json.loads(project.run("python", "-m", "pipeline.compare", "--format", "json", "--metric", "val_accuracy").stdout)
    [compared] = [row for row in table if row["cell"] == "batch_norm"]
    metrics = json.loads((project.root / "reports/notebook/metrics.json").read_text())
    difference = metrics["train_differences"]["batch_norm_minus_baseline"]["final"]["val_accuracy"]
    assert compared["difference"] == pytest.approx(difference["mean"])
    assert compared["high_95"] == pytest.approx(difference["high_95"])


def test_a_reader_of_the_comparison_who_stops_reading_is_no_fault(project):
    done = project.run("bash", "-c", "python -m pipeline.compare --format csv | true")
    assert "Error" not in done.stderr


def test_the_best_on_validation_was_submitted(project):
    [run] = runs_of(project, "evaluation")
    assert len(run.outputs.model_outputs) == 1
    version = MlflowClient(f"sqlite:///{project.root}/mlflow.db").get_model_version("cifar10-mlp", "1")
    history = pd.read_csv(project.root / "reports/notebook/history.csv")
    last = history[(history["study"] == "train") & (history["epoch"] == 2)].groupby("arm", sort=False)["val_accuracy"].mean()
    assert version.tags["arm"] == last.idxmax()
    assert float(version.tags["arm_val_accuracy_mean"]) == pytest.approx(last.max())


def test_a_changed_learning_rate_reruns_what_depends_on_it(project):
    learning_rate = YAML(typ="safe").load(project.root / "params.yaml")["trial"]["learning_rate"]
    project.change("trial", "learning_rate", to=0.01)
    listed = stages_run(project.succeed("dvc", "repro", "--dry"))
    assert listed == {"train@baseline", "train@batch_norm", "batch_size_grid@32", "batch_size_grid@64", "evaluate", "report"}
    project.change("trial", "learning_rate", to=learning_rate)


def test_a_new_batch_size_runs_its_own_stage_and_the_report_alone(project):
    before = {run.info.run_id for run in runs_of(project)}
    project.change("studies", "batch_size_grid", "grid", "batch_size", to=[32, 64, 16])
    assert stages_run(project.succeed("dvc", "repro")) == {"batch_size_grid@16", "report"}
    new = [run.info.run_name for run in runs_of(project) if run.info.run_id not in before]
    assert sorted(new) == ["batch_norm-b16-s0", "batch_norm-b16-s1"]


def test_a_wrong_parameter_stops_the_stage_with_one_line(project):
    project.change("trial", "epochs", to="many")
    done = project.run("dvc", "repro", "train@baseline")
    assert done.returncode != 0
    assert "error: params.yaml: trial.epochs: Input should be a valid integer (got 'many')" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    project.change("trial", "epochs", to=2)
    project.succeed("dvc", "repro", "train@baseline")
