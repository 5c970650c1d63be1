"""The ledger against a real sqlite store."""

import os
import socket
import subprocess
import sys
import tempfile

import pandas as pd
import pytest
from mlflow import MlflowClient

from pipeline.common.errors import PipelineError
from pipeline.tracking import names, provenance
from pipeline.tracking.ledger import Ledger
from pipeline.tracking.store import store_lock
from pipeline.training.result import HDF5_SIGNATURE, TrialResult, save_result

KEY = "a" * 64
NOTE = "A **note**."
HISTORY = pd.DataFrame({"epoch": [1.0, 2.0], "loss": [1.5, 1.0], "accuracy": [0.5, 0.6], "val_accuracy": [0.4, 0.3]})


@pytest.fixture
def config(parameters):
    return parameters.trial_config("batch_norm", {}, seed=0)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> MlflowClient:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(provenance, "PROFILE", tmp_path / "profile.json")
    provenance.PROFILE.write_text('{"dataset": {"name": "cifar10"}}')
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def result(tmp_path) -> TrialResult:
    result = TrialResult(tmp_path / "result")
    save_result(result, HISTORY, lambda path: path.write_bytes(HDF5_SIGNATURE + b"weights"))
    assert result.is_whole()
    return result


def tags(**more: str) -> dict[str, str]:
    return {"arm": "batch_norm", "study": "train", "trial_key": KEY, "data_md5": "0" * 32, **more}


def log_trial(ledger: Ledger, config, result: TrialResult) -> str:
    run_id = ledger.start("batch_norm-b64-s0", config, tags(), NOTE)
    for metrics in HISTORY.to_dict("records"):
        ledger.log_epochs(run_id, [(metrics, 0.5)])
    ledger.finish(run_id, result)
    return run_id


def test_a_run_tells_all_about_its_trial(config, result, store):
    run = store.get_run(log_trial(Ledger(), config, result))
    assert run.info.run_name == "batch_norm-b64-s0"
    assert run.info.status == "FINISHED"
    assert store.get_experiment(run.info.experiment_id).name == names.EXPERIMENT
    assert run.data.params == {name: str(value) for name, value in config.model_dump().items()}
    curve = store.get_metric_history(run.info.run_id, "val_accuracy")
    assert [(point.step, point.value) for point in curve] == [(1, 0.4), (2, 0.3)]
    assert run.data.metrics["best_val_accuracy"] == 0.4
    assert run.data.metrics["best_val_epoch"] == 1
    assert run.data.metrics["diverged"] == 0
    assert run.data.metrics["epoch_seconds"] == 0.5
    assert run.data.tags["mlflow.note.content"] == NOTE
    assert run.data.tags["mlflow.source.name"] == "train"  # the one tag that the UI's table shows from the start
    assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {"cifar10-train", "cifar10-validation"}
    assert {entry.path for entry in store.list_artifacts(run.info.run_id)} == {"history.csv", "model.weights.h5", "sha256.json"}


def test_epochs_that_are_logged_together_are_the_same_curves_however_many_there_are(config, store):
    run_id = Ledger().start("batch_norm-b64-s0", config, tags(), NOTE)
    names = [f"metric_{number}" for number in range(30)]
    epochs = [
        ({"epoch": float(epoch), **dict.fromkeys(names, epoch / 100)}, 0.5) for epoch in range(1, 51)
    ]  # more values than a call takes
    Ledger().log_epochs(run_id, epochs)
    for name in (names[0], names[-1]):
        curve = store.get_metric_history(run_id, name)
        assert [(point.step, point.value) for point in curve] == [(epoch, epoch / 100) for epoch in range(1, 51)]
    assert store.get_run(run_id).data.metrics == {**dict.fromkeys(names, 0.5), "epoch_seconds": 0.5}


def test_finds_a_finished_trial_and_reads_it_back(config, result, tmp_path):
    run_id = log_trial(Ledger(), config, result)
    run = Ledger().find([KEY])[KEY]
    assert run.info.run_id == run_id
    copy = TrialResult(tmp_path / "copy")
    assert Ledger().read_back(run, copy)
    assert copy.history.read_bytes() == result.history.read_bytes()
    assert copy.weights.read_bytes() == result.weights.read_bytes()


def test_does_not_find_what_has_not_finished(config):
    ledger = Ledger()
    ledger.start("batch_norm-b64-s0", config, tags(), NOTE)
    assert ledger.find([KEY, "b" * 64]) == {}


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_bytes(HDF5_SIGNATURE + b"weightz"), lambda path: path.unlink()], ids=["damaged", "gone"]
)
def test_a_result_that_is_damaged_or_gone_is_not_read_back(config, result, tmp_path, spoil):
    log_trial(Ledger(), config, result)
    [artifact] = tmp_path.glob("mlartifacts/*/artifacts/model.weights.h5")
    spoil(artifact)
    ledger = Ledger()
    copy = TrialResult(tmp_path / "copy")
    assert not ledger.read_back(ledger.find([KEY])[KEY], copy)
    assert not copy.folder.exists()


def test_names_each_study_that_uses_the_trial_once(config, result, store):
    ledger = Ledger()
    run_id = log_trial(ledger, config, result)
    for study in ("batch_size_grid", "train", "batch_size_grid"):
        ledger.add_study(ledger.find([KEY])[KEY], study)
    assert store.get_run(run_id).data.tags["study"] == "batch_size_grid,train"
    assert store.get_run(run_id).data.tags["mlflow.note.content"] == NOTE


def test_names_the_claims_of_all_its_studies(config, result, store):
    ledger = Ledger()
    run_id = log_trial(ledger, config, result)
    ledger.add_study(ledger.find([KEY])[KEY], "core")
    ledger.tag_claims({"B1": "core", "B2a": "core", "B2b": "learning_rate"})
    assert store.get_run(run_id).data.tags["claims"] == "B1,B2a"


def test_closes_the_runs_of_a_killed_process_and_of_no_other(config, store):
    program = (
        "import os; from pipeline.trials.parameters import load_parameters; from pipeline.tracking.ledger import Ledger;"
        "config = load_parameters().trial_config('batch_norm', {}, 0);"
        f"print(Ledger().start('orphan', config, {tags()!r}, ''), flush=True); os._exit(9)"
    )
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert killed.returncode == 9, killed.stderr
    ours = Ledger().start("ours", config, tags(), NOTE)
    Ledger()
    assert store.get_run(killed.stdout.strip()).info.status == "KILLED"
    assert store.get_run(ours).info.status == "RUNNING"


def test_honours_the_experiments_name(monkeypatch, config, store):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    run = store.get_run(Ledger().start("trial", config, tags(), NOTE))
    assert store.get_experiment(run.info.experiment_id).name == "elsewhere"


def test_honours_the_experiments_id(monkeypatch, config, store):
    identity = store.create_experiment("by-id")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", identity)
    assert store.get_run(Ledger().start("trial", config, tags(), NOTE)).info.experiment_id == identity


def test_finds_the_projects_trials_from_another_experiment(monkeypatch, config, result):
    run_id = log_trial(Ledger(), config, result)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    assert Ledger().find([KEY])[KEY].info.run_id == run_id


def test_puts_trials_under_the_run_of_mlflow_run(monkeypatch, config, store):
    parent = store.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", parent)
    run = store.get_run(Ledger().start("trial", config, tags(), NOTE))
    assert run.info.run_id != parent
    assert run.data.tags["mlflow.parentRunId"] == parent


def test_a_server_that_nobody_answers_at_is_one_clear_error(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(PipelineError, match=r"http://127\.0\.0\.1:\d+ cannot be used") as raised:
            Ledger()
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("address", ["sqlite:mlflow.db", "http://["])
def test_an_address_that_is_none_is_one_clear_error(monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(PipelineError, match="cannot be used") as raised:
        Ledger()
    assert "\n" not in str(raised.value)


def test_all_processes_meet_at_one_lock_of_a_store_wherever_their_temporary_files_are(monkeypatch, tmp_path):
    before = store_lock().lock_file
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # as the workers' folder is
    assert store_lock().lock_file == before


def test_the_ledger_can_be_switched_off(monkeypatch):
    ledger = Ledger()
    assert ledger.is_on
    monkeypatch.setenv("TRIAL_LEDGER", "off")
    assert not ledger.is_on
    monkeypatch.setenv("TRIAL_LEDGER", "perhaps")
    with pytest.raises(PipelineError, match="TRIAL_LEDGER"):
        assert ledger.is_on
