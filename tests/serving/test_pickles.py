"""Pickles that somebody planted: wherever the project reads files, nothing in them is run, and one clear line says what is wrong."""

import hashlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline.common.errors import PipelineError
from pipeline.images.arrays import load_examples
from pipeline.images.cifar10 import CIFAR10
from pipeline.images.sources import canonical_files, read_tar
from pipeline.serving.registry import ALIAS, load_champion
from pipeline.tracking.ledger import Ledger
from pipeline.training.result import CHECKSUMS, HDF5_SIGNATURE, HISTORY, WEIGHTS, TrialResult

pytestmark = pytest.mark.cluster

MODEL = "cifar10-mlp"
MARK = "a pickle was run"
RIGHT = {HISTORY: b"epoch,loss\n1,2.3\n", WEIGHTS: HDF5_SIGNATURE + b"and so on"}


class Payload:
    """Leaves a file in the working directory when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path(MARK),)


@pytest.fixture(autouse=True)
def nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    yield
    assert not (tmp_path / MARK).exists()
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):  # where MLflow notes what is active in this process
        os.environ.pop(name, None)


@pytest.mark.parametrize("name", ["images", "labels"])
def test_in_an_array(processed, name):
    np.save(processed / f"train/{name}.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    with pytest.raises(PipelineError, match=r"train: not readable .*; run `dvc repro --force preprocess`") as fault:
        load_examples("train", processed)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("name", ["images", "labels"])
def test_in_place_of_an_array(processed, name):
    (processed / f"train/{name}.npy").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(PipelineError, match=r"train: not readable .*; run `dvc repro --force preprocess`") as fault:
        load_examples("train", processed)
    assert "\n" not in str(fault.value)


def test_in_an_archive_of_the_data_as_python_has_it(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
            content = pickle.dumps({b"data": Payload(), b"labels": []})
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with (tmp_path / "cifar-10-python.tar.gz").open("rb") as file, pytest.raises(PipelineError) as fault:
        list(canonical_files(read_tar(file, CIFAR10, 10**6), CIFAR10, 10**6))
    assert "\n" not in str(fault.value)


def read_back_from_ledger(tmp_path: Path, contents: dict[str, bytes]) -> TrialResult:
    """Put a run with these files into the ledger and read it back to where its result would be."""
    planted = tmp_path / "planted"
    planted.mkdir()
    for name, content in contents.items():
        (planted / name).write_bytes(content)
    result = TrialResult(tmp_path / "read back")
    with Ledger() as ledger:
        run = ledger.client.create_run(ledger.experiment_id, run_name="planted")
        for name in contents:
            ledger.client.log_artifact(run.info.run_id, str(planted / name))
        ledger.read_back(ledger.client.get_run(run.info.run_id), result)
    return result


def checksums_of(contents: dict[str, bytes]) -> bytes:
    return json.dumps({name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}).encode()


@pytest.mark.parametrize("replaced", [HISTORY, WEIGHTS, CHECKSUMS])
def test_in_what_the_ledger_keeps(tmp_path, capsys, replaced):
    result = read_back_from_ledger(tmp_path, {**RIGHT, CHECKSUMS: checksums_of(RIGHT), replaced: pickle.dumps(Payload())})
    assert "planted: its result in the ledger is damaged; training it again" in capsys.readouterr().out.splitlines()
    assert not result.folder.exists()


def test_what_the_ledger_keeps_is_read_back_where_nobody_planted_anything(tmp_path):
    assert read_back_from_ledger(tmp_path, {**RIGHT, CHECKSUMS: checksums_of(RIGHT)}).is_whole()


@pytest.mark.parametrize("replaced", [HISTORY, WEIGHTS])
@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_in_what_the_ledger_keeps_with_checksums_to_match(tmp_path, capsys, replaced, protocol):
    planted = {**RIGHT, replaced: pickle.dumps(Payload(), protocol)}
    result = read_back_from_ledger(tmp_path, {**planted, CHECKSUMS: checksums_of(planted)})
    assert "planted: its result in the ledger is damaged; training it again" in capsys.readouterr().out.splitlines()
    assert not result.folder.exists()


def test_in_a_model_that_carries_the_alias(tmp_path):
    class Planted(Payload, mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with Ledger() as ledger:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(experiment_id=ledger.experiment_id)
    with mlflow.start_run():
        model = mlflow.pyfunc.log_model(name="planted", python_model=Planted(), pip_requirements=[])
    client = MlflowClient(uri)
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, model.model_uri, model_id=model.model_id)
    client.set_registered_model_alias(MODEL, ALIAS, "1")
    with pytest.raises(PipelineError, match=r"cifar10-mlp version 1 \(registered by hand\): cannot be loaded \(.*pickle") as fault:
        load_champion(MODEL)
    assert "\n" not in str(fault.value)
