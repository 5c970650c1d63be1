"""Registering a model in a real sqlite store, and loading it from there."""

import dataclasses
import os
import re
import shutil

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.common.errors import PipelineError
from pipeline.common.statistics import Summary
from pipeline.images.cifar10 import CLASSES
from pipeline.serving import submission as submissions
from pipeline.serving.registry import ALIAS, Candidate, Submission, load_champion, register
from pipeline.serving.submission import choose_form
from pipeline.tracking import provenance
from pipeline.tracking.ledger import Ledger
from pipeline.training import quiet_tensorflow  # noqa: F401 - before Keras
from pipeline.training.inference import predict
from pipeline.training.network import build_model

pytestmark = pytest.mark.browser

MODEL = "cifar10-mlp"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(provenance, "PROFILE", tmp_path / "profile.json")
    provenance.PROFILE.write_text('{"dataset": {"name": "cifar10"}}')
    yield MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):  # where MLflow notes what is active in this process
        os.environ.pop(name, None)


@pytest.fixture(scope="module")
def networks(parameters):
    """A network of each arm; BN's moving averages are not those it starts with."""
    networks = {arm: build_model(parameters.trial_config(arm, {}, 0), 0, (32, 32, 3), 10) for arm in ("baseline", "batch_norm")}
    random = np.random.default_rng(0)
    for layer in networks["batch_norm"].layers:
        if "normalization" in layer.name:
            layer.set_weights([random.uniform(0.5, 1.5, values.shape) for values in layer.get_weights()])
    return networks


@pytest.fixture(scope="module")
def images(examples):
    return examples[0].images


def submission(network, key: str = "a", mean: float = 0.5, md5: str = "0" * 32, form: str = "as trained") -> Submission:
    candidate = Candidate("baseline", 3, mean + 0.01, Summary(mean, 0.01, 5))
    metrics = {"val_accuracy": mean + 0.01, "test_accuracy": 0.49, "test_loss": 1.4}
    example = np.zeros((1, 32, 32, 3), np.uint8)
    return Submission(MODEL, candidate, key * 64, md5, 0.39, network, CLASSES, form, "# A card", metrics, example)


def submit(submission: Submission) -> str:
    with Ledger() as ledger, ledger.evaluation({"test": "0" * 32}) as run_id:
        return register(ledger, run_id, submission)


def alias(store) -> str:
    return str(store.get_model_version_by_alias(MODEL, ALIAS).version)


def test_the_first_becomes_champion_with_all_that_is_known_of_it(networks, store):
    assert submit(submission(networks["baseline"])) == "cifar10-mlp version 1 (baseline, seed 3) is the champion now"
    version = store.get_model_version_by_alias(MODEL, ALIAS)
    assert version.description == "# A card"
    assert version.tags | {"arm": "baseline", "seed": "3", "gate": "passed", "trial_key": "a" * 64, "test_accuracy": "0.49"} == version.tags
    run = store.get_run(version.run_id)
    assert (run.data.tags["kind"], run.info.status) == ("evaluation", "FINISHED")
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["cifar10-test"]
    [output] = run.outputs.model_outputs
    assert {metric.key: metric.value for metric in store.get_logged_model(output.model_id).metrics}["test_accuracy"] == 0.49


def test_its_signature_is_images_in_and_classes_out(networks, store):
    submit(submission(networks["baseline"]))
    signature = mlflow.models.get_model_info(f"models:/{MODEL}@{ALIAS}").signature.to_dict()
    assert '"name": "images"' in signature["inputs"]
    assert all(name in signature["outputs"] for name in ("class", "probabilities", *CLASSES))


def test_it_holds_no_pickle_and_answers_with_the_bits_that_predict_gives(networks, images, store, tmp_path):
    submit(submission(networks["baseline"]))
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pickle")]
    model, name = load_champion(MODEL)
    assert name == "cifar10-mlp version 1 (baseline)"
    expected = predict(networks["baseline"], images)
    for count in (1, 2, 17, len(images)):
        answers = model.predict(images[:count])
        got = np.array([list(answer["probabilities"].values()) for answer in answers], np.float32)
        assert np.array_equal(got, expected[:count])
        assert [answer["class"] for answer in answers] == [CLASSES[row.argmax()] for row in expected[:count]]


def test_the_same_again_is_not_registered_again(networks, store):
    submit(submission(networks["baseline"]))
    assert submit(submission(networks["baseline"])) == "cifar10-mlp version 1 (baseline, seed 3) is the champion already"
    assert len(store.search_model_versions(f"name = '{MODEL}'")) == 1


def test_one_within_the_spread_follows_and_one_behind_is_registered_without_the_alias(networks, store):
    submit(submission(networks["baseline"]))
    assert "version 2 (baseline, seed 3) is the champion now" in submit(submission(networks["baseline"], "b", mean=0.495))
    said = submit(submission(networks["baseline"], "c", mean=0.45))
    assert said.startswith("cifar10-mlp version 3 (baseline, seed 3) is registered without the alias champion: it validates at 45.00%")
    assert alias(store) == "2"
    assert "further behind" in store.get_model_version(MODEL, "3").tags["gate"]


def test_a_measured_form_that_comes_out_otherwise_is_no_new_version(networks, store):
    for ratio in (1.02, 1.03):
        submit(submission(networks["baseline"], form=f"as trained; folded, images take {ratio} times as long"))
    [version] = store.search_model_versions(f"name = '{MODEL}'")
    assert version.tags["form"].endswith("1.03 times as long")


def test_one_whose_files_are_gone_is_registered_anew(networks, store, tmp_path):
    submit(submission(networks["baseline"]))
    for folder in tmp_path.glob("mlartifacts/models/*"):
        shutil.rmtree(folder)
    with pytest.raises(PipelineError, match=r"version 1 \(baseline\): cannot be loaded"):
        load_champion(MODEL)
    assert submit(submission(networks["baseline"])) == "cifar10-mlp version 2 (baseline, seed 3) is the champion now"
    load_champion(MODEL)


def test_a_version_is_remembered_by_what_was_said_of_it_last(networks, store):
    submit(submission(networks["baseline"]))
    submit(submission(networks["baseline"], mean=0.48))
    assert store.get_model_version(MODEL, "1").tags["arm_val_accuracy_mean"] == "0.48"


def test_one_registered_by_hand_stays_until_a_person_decides(networks, store):
    submit(submission(networks["baseline"]))
    source = store.get_model_version(MODEL, "1").source
    by_hand = store.create_model_version(MODEL, source, tags={"arm_seeds": "five"}).version
    store.set_registered_model_alias(MODEL, ALIAS, by_hand)
    assert "version 2, was registered by hand" in submit(submission(networks["baseline"], "b"))
    assert load_champion(MODEL)[1] == "cifar10-mlp version 2 (registered by hand)"


def test_a_registry_that_fails_is_not_taken_for_an_empty_one(networks, store, monkeypatch):
    submit(submission(networks["baseline"]))

    def fails(*_arguments):
        raise MlflowException("out of order")

    monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", fails)
    with pytest.raises(PipelineError, match=r"tracking store .* cannot be used: out of order"):
        submit(submission(networks["baseline"], "b", mean=0.4))
    monkeypatch.undo()
    monkeypatch.setenv("DVC_ROOT", str(store._tracking_client.tracking_uri).removeprefix("sqlite:///").removesuffix("/mlflow.db"))
    assert alias(store) == "1"


def test_what_was_refused_may_come_in_later(networks, store):
    submit(submission(networks["baseline"]))
    submit(submission(networks["baseline"], "c", mean=0.45))
    store.delete_registered_model_alias(MODEL, ALIAS)
    assert "version 2 (baseline, seed 3) is the champion now" in submit(submission(networks["baseline"], "c", mean=0.45))
    assert len(store.search_model_versions(f"name = '{MODEL}'")) == 2


def test_one_that_does_not_beat_a_linear_classifier_is_not_served(networks, store):
    assert "a linear classifier on the pixels at 39.00%" in submit(submission(networks["baseline"], mean=0.3))
    with pytest.raises(PipelineError, match="no version has the alias champion"):
        load_champion(MODEL)


def test_without_a_registry_there_is_no_champion():
    with pytest.raises(PipelineError, match=r"run `make repro`, or, .* `dvc repro --force evaluate`"):
        load_champion(MODEL)


def test_a_run_whose_submission_fails_is_closed_as_failed(networks, store):
    broken = dataclasses.replace(submission(networks["baseline"]), network=None)
    with pytest.raises(AttributeError):
        submit(broken)
    [run] = store.search_runs([store.get_experiment_by_name("cifar10-batch-norm").experiment_id])
    assert run.info.status == "FAILED"


def test_batch_normalization_is_folded_away_only_where_there_is_some_and_it_is_exact(networks, images):
    assert choose_form(networks["baseline"], images) == (networks["baseline"], "as trained")
    network, form = choose_form(networks["batch_norm"], images)
    assert network is not networks["batch_norm"] or form.startswith("as trained; ")
    np.testing.assert_allclose(predict(network, images), predict(networks["batch_norm"], images), atol=1e-4)
    has_batch_norm = any("normalization" in layer.name for layer in network.layers)
    ratio = float(re.search(r"take ([0-9.]+) times as long", form)[1])
    assert has_batch_norm == form.startswith("as trained; ") == (ratio >= 1)


def test_what_cannot_be_folded_is_served_as_trained(parameters, images):
    unfoldable = parameters.trial_config("batch_norm", {"normalization_position": "before_activation", "hidden_units": []}, 0)
    network = build_model(unfoldable, 0, (32, 32, 3), 10)
    assert choose_form(network, images)[0] is network


def test_what_is_not_exact_is_not_served(networks, images, monkeypatch):
    monkeypatch.setattr(submissions, "TOLERANCE", 0.0)
    monkeypatch.setattr(submissions, "time_ratio", lambda *_: 0.5)
    assert choose_form(networks["batch_norm"], images)[0] is networks["batch_norm"]
    monkeypatch.setattr(submissions, "TOLERANCE", 1e-4)
    assert choose_form(networks["batch_norm"], images)[1].startswith("with Batch Normalization folded")
    monkeypatch.setattr(submissions, "time_ratio", lambda *_: 1.5)
    assert choose_form(networks["batch_norm"], images)[0] is networks["batch_norm"]
