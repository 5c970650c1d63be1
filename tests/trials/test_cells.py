"""One cell of a study, from params.yaml to its results and runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.models import Model
from ruamel.yaml import YAML

from pipeline.common.errors import PipelineError
from pipeline.common.files import remove
from pipeline.images.arrays import data_md5
from pipeline.tracking.ledger import Ledger
from pipeline.training.network import build_model
from pipeline.training.result import DIVERGED_LOSS, diverged, save_result
from pipeline.trials import cells, execution
from pipeline.trials.cells import run_cell
from pipeline.trials.key import trial_key
from pipeline.trials.parameters import load_parameters
from pipeline.workers.events import EpochEnded
from pipeline.workers.work import result_of
from tests.conftest import ROOT, kill_workers, stage_environment


@pytest.fixture(autouse=True)
def project(tmp_path, processed, monkeypatch):
    """A folder with data and params.yaml, as a stage finds it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_STAGE", "train@batch_norm")
    monkeypatch.setenv("TRIAL_WORKERS", "1")  # a second worker would work ahead, or not, as its luck is
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change("trial", epochs=2, hidden_units=[16], batch_size=32)
    for name in ("train", "batch_size_grid"):
        change("studies", name, seeds=[0, 1])
    change("studies", "batch_size_grid", "grid", batch_size=[16, 32])
    return tmp_path


def change(*path: str, **values) -> None:
    yaml = YAML()
    content = yaml.load(Path("params.yaml"))
    node = content
    for key in path:
        node = node[key]
    node.update(values)
    yaml.dump(content, Path("params.yaml"))


def runs() -> list:
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    return client.search_runs([client.get_experiment_by_name("cifar10-batch-norm").experiment_id])


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_writes_history_metrics_and_weights_of_all_seeds(project):
    run_cell("train", "batch_norm", {}, project / "results")
    history = pd.read_csv(project / "results/history.csv")
    labels = "arm batch_size seed epoch"
    kerass_own = "loss accuracy val_loss val_accuracy"
    inference_mode = "train_eval_loss train_eval_accuracy"
    recalibrated = "val_loss_recalibrated val_accuracy_recalibrated train_eval_loss_recalibrated train_eval_accuracy_recalibrated"
    other_statistics = "val_loss_batch_statistics val_accuracy_batch_statistics val_loss_unbiased val_accuracy_unbiased variance_ratio_1"
    assert " ".join(history.columns) == f"{labels} {kerass_own} {inference_mode} {recalibrated} {other_statistics}"
    assert history[["arm", "batch_size", "seed", "epoch"]].to_numpy().tolist() == [
        ["batch_norm", 32, seed, epoch] for seed in (0, 1) for epoch in (1, 2)
    ]
    last = history[history["epoch"] == 2]["val_accuracy"]
    metrics = json.loads((project / "results/metrics.json").read_text())
    assert metrics["val_accuracy"] == pytest.approx({"mean": last.mean(), "sd": last.std(ddof=1), "n": 2})
    assert metrics["diverged"] == 0
    config = load_parameters().trial_config("batch_norm", {}, 1)
    build_model(config, 1, (32, 32, 3), 10).load_weights(project / "results/weights/seed-1.weights.h5")
    assert not (project / ".trials").exists()


def test_logs_each_trial_as_a_run_with_its_model(project):
    run_cell("train", "batch_norm", {}, project / "results")
    assert sorted(run.info.run_name for run in runs()) == ["batch_norm-b32-s0", "batch_norm-b32-s1"]
    for run in runs():
        assert run.info.status == "FINISHED"
        assert {"arm": "batch_norm", "study": "train", "dvc.stage": "train@batch_norm"}.items() <= run.data.tags.items()
        assert {"trial_key", "data_md5", "cpu", "keras", "driver"} <= run.data.tags.keys()
        [output] = run.outputs.model_outputs
        model = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db").get_logged_model(output.model_id)
        assert model.experiment_id == run.info.experiment_id
        assert model.artifact_location.startswith(f"file://{project}/mlartifacts/")
        described = Model.load(model.artifact_location.removeprefix("file://"))
        assert "uint8" in str(described.signature.inputs)
        assert described.saved_input_example_info is not None


def test_trains_nothing_that_is_in_the_ledger(project, monkeypatch):
    run_cell("train", "batch_norm", {}, project / "first")
    before = len(runs())
    monkeypatch.setattr(execution, "run_trials", None)
    run_cell("train", "batch_norm", {}, project / "second")
    run_cell("batch_size_grid", "batch_norm", {"batch_size": 32}, project / "third")
    assert len(runs()) == before
    assert files_of(project / "first") == files_of(project / "second") == files_of(project / "third")
    assert {run.data.tags["study"] for run in runs()} == {"batch_size_grid,train"}


def test_trains_anew_with_the_same_bytes_when_the_ledger_is_off(project, monkeypatch):
    run_cell("train", "baseline", {}, project / "first")
    monkeypatch.setenv("TRIAL_LEDGER", "off")
    run_cell("train", "baseline", {}, project / "second")
    assert len(runs()) == 4
    assert files_of(project / "first") == files_of(project / "second")


def test_trains_anew_what_the_ledger_has_lost(project):
    run_cell("train", "baseline", {}, project / "first")
    remove(project / "mlartifacts")
    run_cell("train", "baseline", {}, project / "second")
    assert files_of(project / "first") == files_of(project / "second")


def test_logs_at_the_next_start_what_could_not_be_logged(project, monkeypatch):
    """A trial that finished while the tracking store failed is kept, and not trained again."""

    def fail(*_):
        raise RuntimeError("the store is gone")

    with monkeypatch.context() as broken, pytest.raises(RuntimeError):
        broken.setattr(Ledger, "finish", fail)
        run_cell("train", "baseline", {}, project / "results")
    kept = [folder.name for folder in (project / ".trials").iterdir() if not folder.name.startswith(".")]
    assert kept
    started = []
    monkeypatch.setattr(
        execution,
        "run_trials",
        lambda pool, configs, run=execution.run_trials, **named: (started.extend(configs), run(pool, configs, **named))[1],
    )
    run_cell("train", "baseline", {}, project / "results")
    assert not set(kept) & set(started)
    assert sorted(run.info.run_name for run in runs() if run.info.status == "FINISHED") == ["baseline-b32-s0", "baseline-b32-s1"]


def test_workers_with_nothing_to_do_train_ahead_what_later_stages_need(project, monkeypatch):
    monkeypatch.setenv("TRIAL_WORKERS", "3")
    change("trial", epochs=30)
    run_cell("train", "baseline", {}, project / "baseline")
    ahead = [run for run in runs() if run.data.tags["arm"] == "batch_norm"]
    assert ahead[-1].info.run_name == "batch_norm-b32-s0"  # the first in line was taken up first
    assert {run.info.status for run in runs()} == {"FINISHED"}
    assert not (project / ".trials").exists()
    monkeypatch.setenv("TRIAL_WORKERS", "1")
    run_cell("train", "batch_norm", {}, project / "ahead")
    names = [run.info.run_name for run in runs()]
    assert len(names) == len(set(names))
    monkeypatch.setenv("TRIAL_LEDGER", "off")
    run_cell("train", "batch_norm", {}, project / "anew")
    assert files_of(project / "ahead") == files_of(project / "anew")


def test_nothing_is_trained_ahead_when_nobody_would_read_it_back(project, monkeypatch):
    monkeypatch.setenv("TRIAL_WORKERS", "3")
    monkeypatch.setenv("TRIAL_LEDGER", "off")
    run_cell("train", "baseline", {}, project / "results")
    assert {run.data.tags["arm"] for run in runs()} == {"baseline"}


def test_a_new_seed_trains_only_itself(project):
    run_cell("train", "baseline", {}, project / "two")
    change("studies", "train", seeds=[0, 1, 2])
    run_cell("train", "baseline", {}, project / "three")
    assert len(runs()) == 3
    assert pd.read_csv(project / "three/history.csv")["seed"].unique().tolist() == [0, 1, 2]


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("setting", "finite"),
    [({"learning_rate": 1e3}, True), ({"optimizer": "sgd", "learning_rate": 1e6, "kernel_gain": 1e6}, False)],
    ids=["huge losses", "losses that are not numbers"],
)
def test_a_diverged_trial_is_recorded_with_its_history_and_left_out_of_the_means(project, record_property, setting, finite):
    change("trial", epochs=20, hidden_units=[32, 16], **setting)
    run_cell("train", "baseline", {}, project / "results")
    history = pd.read_csv(project / "results/history.csv")
    assert history["seed"].unique().tolist() == [0, 1]
    assert np.isfinite(history["loss"]).all() == finite
    assert (len(history) == 2 * 20) == finite  # nothing can be learned once a loss is not finite
    assert json.loads((project / "results/metrics.json").read_text()) == {"diverged": 2}
    assert [(run.info.status, run.data.metrics["diverged"]) for run in runs()] == [("FINISHED", 1.0)] * 2
    record_property("divergences_recorded", 2)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("loss", [1e9, 2.0], False),  # at the start only
        ("loss", [2.0, 1.1 * DIVERGED_LOSS], True),
        ("val_loss", [2.0, 1e9], False),  # the moving averages' doing
        ("val_loss", [np.inf, 2.0], True),
        ("val_loss_recalibrated", [2.0, np.nan], True),
    ],
)
def test_a_trial_has_diverged_when_a_loss_is_no_number_or_training_ends_far_above_chance(name, values, expected):
    history = pd.DataFrame({"loss": [2.0, 1.0], "accuracy": 0.3, "val_loss": 2.0, "val_accuracy": 0.3})
    assert not diverged(history.assign(val_loss_recalibrated=np.nan, val_accuracy_recalibrated=np.nan))  # not measured
    assert diverged(history.assign(val_accuracy_recalibrated=0.3, val_loss_recalibrated=2.0).assign(**{name: values})) == expected


@pytest.mark.reliability
def test_a_trial_that_loses_its_worker_every_time_is_named_and_the_others_are_kept(project, monkeypatch, record_property):
    change("trial", epochs=40, batch_size=4)
    record, killed = execution._Recorder.record, 0

    def record_and_kill(recorder, events):
        nonlocal killed
        record(recorder, events)
        first_epochs = [event.key for event in events if isinstance(event, EpochEnded) and event.metrics["epoch"] == 1]
        if "baseline-b4-s0" in [recorder.trials[key].name for key in first_epochs]:
            killed += kill_workers()

    monkeypatch.setattr(execution._Recorder, "record", record_and_kill)
    with pytest.raises(PipelineError, match=r"gave up after 3 attempts each: trial baseline-b4-s0 \(its worker died with exit code -9\)"):
        run_cell("train", "baseline", {}, project / "results")
    outcomes = sorted((run.info.run_name, run.info.status) for run in runs())
    assert outcomes == [("baseline-b4-s0", "FAILED")] * 3 + [("baseline-b4-s1", "FINISHED")]
    record_property("workers_killed", killed)


@pytest.mark.parametrize(
    ("name", "arm", "level"), [("train", "unknown", {}), ("batch_size_grid", "batch_norm", {"batch_size": 7}), ("x", "y", {})]
)
def test_refuses_what_is_not_declared(project, name, arm, level):
    with pytest.raises(PipelineError, match=rf"params.yaml: studies.{name}"):
        run_cell(name, arm, level, project / "results")


def test_more_training_images_than_there_are_are_refused_before_anything_is_trained(project):
    change("arms", "baseline", training_images=211)
    with pytest.raises(PipelineError, match="baseline-b32-s0: training_images: 211 asked for, and the training set has 210; ask for fewer"):
        run_cell("train", "baseline", {}, project / "results")
    assert runs() == []


def test_says_when_data_is_missing(project):
    remove(project / "data")
    with pytest.raises(PipelineError, match=r"data/processed/train/images.npy: not found; run `dvc repro preprocess`"):
        run_cell("train", "baseline", {}, project / "results")


def test_keras_is_the_backend_it_was_measured_on():
    assert keras.backend.backend() == "tensorflow"


def heed_ctrl_c() -> None:
    """Undo what a shell does to jobs in the background, under which the tests themselves may run."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.laboratory
def test_ctrl_c_ends_runs_and_workers_and_keeps_what_has_finished(project):
    change("studies", "train", seeds=[0, 1, 2, 3])
    change("trial", epochs=60, batch_size=4)
    command = [sys.executable, "-u", "-m", "pipeline.train", "train", "baseline"]
    environment = stage_environment(TRIAL_WORKERS="2")
    stage = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    assert any("finished (1/4 trials)" in line for line in stage.stdout)
    workers = psutil.Process(stage.pid).children(recursive=True)
    stage.send_signal(signal.SIGINT)
    stage.communicate(timeout=60)
    assert stage.returncode == 130
    assert not psutil.wait_procs(workers, timeout=60)[1]
    statuses = [run.info.status for run in runs()]
    assert "FINISHED" in statuses
    assert "KILLED" in statuses
    assert not {"RUNNING", "FAILED"} & set(statuses)
    assert not (project / "results/train/baseline").exists()
    finished = statuses.count("FINISHED")
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"{finished} of 4 trials are in the ledger already" in again.stdout
    assert [run.info.status for run in runs() if run.data.tags["arm"] == "baseline"].count("FINISHED") == 4


@pytest.mark.laboratory
def test_a_killed_stage_goes_on_where_it_stopped(project):
    """SIGKILL of everything in mid-trial; then the same bytes as undisturbed, and nothing left over."""
    change("trial", epochs=40, batch_size=4)
    command = [sys.executable, "-u", "-m", "pipeline.train", "train", "baseline"]
    temporary = tempfile.mkdtemp(dir="/tmp")
    environment = stage_environment(TRIAL_WORKERS="1", TMPDIR=temporary)
    stage = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert any("baseline-b4-s0 finished" in line for line in stage.stdout)
    os.killpg(stage.pid, signal.SIGKILL)
    stage.wait()
    (project / ".trials/.of-earlier-parameters.part").mkdir()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert not [path for path in Path(temporary).iterdir() if "lock" not in path.name]  # the lock of a store stays
    assert "1 of 2 trials are in the ledger already" in again.stdout
    killed = files_of(project / "results/train/baseline")
    statuses = sorted(run.info.status for run in runs())
    assert statuses in (["FINISHED", "FINISHED"], ["FINISHED", "FINISHED", "KILLED"])
    assert not (project / ".trials").exists()
    shutil.rmtree(temporary)
    del environment["TMPDIR"]
    subprocess.run(command, env={**environment, "TRIAL_LEDGER": "off"}, check=True, capture_output=True)
    assert files_of(project / "results/train/baseline") == killed


def test_a_damaged_leftover_is_not_trusted(project):
    parameters = load_parameters()
    key = trial_key(parameters.trial_config("baseline", {}, 0), data_md5())
    save_result(result_of(key), pd.DataFrame({"epoch": [1.0]}), lambda path: path.write_bytes(b"whole"))
    result_of(key).weights.write_bytes(b"")
    run_cell("train", "baseline", {}, project / "results")
    assert len(pd.read_csv(project / "results/history.csv")) == 4


def test_what_is_edited_while_trials_run_is_not_said_to_have_made_them(project, monkeypatch):
    keys = []
    real = cells.TrialKeys.of
    monkeypatch.setattr(cells.TrialKeys, "of", lambda *described: keys.append(real(*described)) or keys[-1])
    run_cell("train", "baseline", {}, project / "results")
    assert len(keys) == 8  # once for each trial of this cell and the three after it, before any began
    assert {run.data.tags["trial_key"] for run in runs()} == set(keys[:2])
