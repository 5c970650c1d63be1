import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from ruamel.yaml import YAML

from checks.clone import ROOT
from claims.probes import timing
from claims.probes.parameters import Timing
from pipeline.serving.folding import fold_batch_normalization
from pipeline.training import inference, steps, trial
from pipeline.training.network import build_model
from pipeline.training.optimizer import build_optimizer
from pipeline.training.seeds import data_order
from tests.conftest import stage_environment

FEW_BLOCKS = Timing(blocks=8, steps_per_leg=3)
TINY = {"hidden_units": [32, 16], "batch_size": 32, "epochs": 1}


@pytest.fixture(scope="module")
def configs(parameters):
    return {arm: parameters.trial_config(arm, TINY, seed=0) for arm in timing.ARMS}


@pytest.fixture
def batches(configs, examples):
    """Three batches of 32 training images."""
    [batches] = timing.gather_leg(examples[0], configs["baseline"], steps=3, leg=0)
    return batches


def weights_of(model: keras.Sequential) -> list[np.ndarray]:
    return [weight.numpy() for weight in model.weights]


def test_every_arm_has_a_time_for_each_kind_of_work_in_each_block(configs, examples):
    table = timing.measure_times(configs, FEW_BLOCKS, examples[0])
    arms = ["baseline", "batch_norm"]
    kinds = {"training_step": arms, "forward_and_backward": arms, "inference": [*arms, "batch_norm_folded"]}
    expected = [(what, arm, block) for what, of_kind in kinds.items() for block in range(8) for arm in of_kind]
    assert list(table) == ["what", "arm", "block", "milliseconds"]
    assert list(table[["what", "arm", "block"]].itertuples(index=False, name=None)) == expected
    assert (table["milliseconds"] > 0).all()


def test_legs_are_mirrored_in_every_block_after_one_that_warms_up():
    done = []
    work = {arm: lambda _images, _labels, arm=arm: done.append(arm) or () for arm in "ABC"}
    legs = []

    def batches(leg):
        legs.append(leg)
        yield np.zeros((1, 1)), np.zeros((1, 1))

    blocks = list(timing.time_blocks(work, batches, 2))
    assert [list(block) for block in blocks] == [["A", "B", "C"]] * 2
    assert "".join(done) == "ABC" + "ABCCBA" * 2
    assert legs == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3


def test_a_block_tells_the_mean_over_both_legs_and_gathering_is_not_timed(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def wait(seconds):
        nonlocal now
        now += seconds

    def batches(leg):
        for _ in range(2):
            wait(1000)
            yield np.full((5, 1), leg), np.zeros((5, 1))

    def steps(images, _labels):
        wait(0.010 * images[0, 0])  # so many seconds for 5 steps
        return (tf.constant(0.0),)

    assert list(timing.time_blocks({"A": steps}, batches, 2)) == [{"A": pytest.approx((2 + 4) / 2)}, {"A": pytest.approx((6 + 8) / 2)}]


def test_work_is_done_when_its_result_has_been_fetched(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    class Result:
        def numpy(self):
            nonlocal now
            now += 1

    [block] = timing.time_blocks({"A": lambda *_: (Result(), Result())}, lambda _: iter([(np.zeros((4, 1)), None)]), 1)
    assert block == {"A": 500.0}


def test_legs_go_on_through_the_training_images_in_a_trials_order_and_start_anew(configs, examples):
    train = examples[0]
    legs = [next(timing.gather_leg(train, configs["baseline"], steps=3, leg=leg)) for leg in range(3)]
    order = data_order(0, 1, 210)
    expected = np.concatenate([order, order])[: 3 * 96]
    np.testing.assert_array_equal(np.concatenate([labels.numpy().ravel() for _, labels in legs]), train.labels[expected])
    np.testing.assert_array_equal(np.concatenate([images.numpy().reshape(96, 32, 32, 3) for images, _ in legs]), train.images[expected])


def test_a_call_has_as_many_images_as_in_a_trial(configs, examples, monkeypatch):
    monkeypatch.setattr(timing, "IMAGES_PER_CALL", 64)
    calls = list(timing.gather_leg(examples[0], configs["baseline"], steps=5, leg=0))
    assert [images.shape[:2] for images, _ in calls] == [(2, 32), (2, 32), (1, 32)]
    assert [labels.shape for _, labels in calls] == [(2, 32), (2, 32), (1, 32)]


@pytest.mark.parametrize("arm", timing.ARMS)
def test_the_training_that_is_timed_is_that_of_a_trial(configs, examples, arm):
    """The first leg is the trial's first epoch: the same sum of losses and the same weights, to the last bit."""
    train = examples[0].first(192)
    history = []
    trained = trial.run_trial(configs[arm], train, examples[1], history.append)
    models = []
    with pytest.MonkeyPatch.context() as patch:
        build_train_steps = steps.build_train_steps
        patch.setattr(timing, "build_train_steps", lambda model, optimizer: models.append(model) or build_train_steps(model, optimizer))
        what, work = next(timing.prepare(configs, train))
    assert what == "training_step"
    [(images, labels)] = timing.gather_leg(train, configs[arm], steps=6, leg=0)
    loss_sum, _ = work[arm](images, labels)
    assert float(loss_sum) / 192 == history[0]["loss"]
    for ours, theirs in zip(weights_of(models[timing.ARMS.index(arm)]), weights_of(trained), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("arm", timing.ARMS)
def test_forward_and_backward_has_the_loss_of_a_training_step_and_every_gradient(configs, batches, arm):
    images, labels = batches[0][:1], batches[1][:1]
    model = build_model(configs[arm], 0, (32, 32, 3), 10)
    network = keras.Model(model.inputs, model.get_layer("logits").output)
    with tf.GradientTape() as tape:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels[0], network(images[0], training=True))
    gradients = tape.gradient(loss, network.trainable_variables)
    [sums] = timing.build_gradient_steps(build_model(configs[arm], 0, (32, 32, 3), 10))(images, labels)
    trained, _ = steps.build_train_steps(build_model(configs[arm], 0, (32, 32, 3), 10), build_optimizer(configs[arm], 210))(images, labels)
    assert float(sums[0]) == float(trained)
    assert float(sums[1]) == pytest.approx(sum(float(gradient.numpy().flat[0]) for gradient in gradients), rel=1e-4)


@pytest.mark.parametrize("arm", timing.ARMS)
def test_forward_and_backward_moves_no_weights_but_the_moving_averages(configs, batches, arm):
    model = build_model(configs[arm], 0, (32, 32, 3), 10)
    before = {weight.path: weight.numpy() for weight in model.weights}
    timing.build_gradient_steps(model)(*batches)
    moved = {weight.path for weight in model.weights if not np.array_equal(weight.numpy(), before[weight.path])}
    assert moved == {weight.path for weight in model.non_trainable_variables}
    assert bool(moved) == (arm == "batch_norm")


def test_inference_is_that_of_the_network_moves_nothing_and_folded_says_the_same(configs, batches):
    model = build_model(configs["batch_norm"], 0, (32, 32, 3), 10)
    steps.build_train_steps(model, build_optimizer(configs["batch_norm"], 210))(*batches)
    before = weights_of(model)
    [confidences] = timing.build_inference_steps(model)(*batches)
    assert float(confidences) == pytest.approx(
        inference.predict(model, batches[0].numpy().reshape(96, 32, 32, 3)).max(axis=1).sum(), rel=1e-5
    )
    [folded] = timing.build_inference_steps(fold_batch_normalization(model))(*batches)
    assert float(folded) == pytest.approx(float(confidences), rel=1e-4)
    for after, was in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(after, was)


def test_the_folded_network_is_the_one_that_was_trained(configs, examples):
    kinds = timing.prepare(configs, examples[0])
    [batches] = timing.gather_leg(examples[0], configs["baseline"], steps=6, leg=0)
    for _, work in kinds:
        results = {arm: steps(*batches)[0] for arm, steps in work.items()}
    assert float(results["batch_norm_folded"]) == pytest.approx(float(results["batch_norm"]), rel=1e-4)
    untrained = build_model(configs["batch_norm"], 0, (32, 32, 3), 10)
    [confidences] = timing.build_inference_steps(untrained)(*batches)
    assert float(confidences) != pytest.approx(float(results["batch_norm"]), rel=1e-2)


def test_tells_how_long_it_will_take(configs, examples, monkeypatch, capsys):
    monkeypatch.setattr(timing, "SECONDS_BETWEEN_LINES", 0)
    timing.measure_times(configs, FEW_BLOCKS, examples[0])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"{done}/24 blocks timed" for done in range(1, 25)]
    assert lines[-1].endswith("about 0 s left")


@pytest.fixture
def project(tmp_path, processed):
    """A folder with parameters and images from which the stage can be run."""
    yaml = YAML()
    common, claims = (yaml.load(ROOT / path) for path in ("params.yaml", "claims/params.yaml"))
    common["trial"].update(TINY)
    claims["timing"] = {"blocks": 8, "steps_per_leg": 1}
    (tmp_path / "claims").mkdir()
    yaml.dump(common, tmp_path / "params.yaml")
    yaml.dump(claims, tmp_path / "claims/params.yaml")
    return tmp_path


def run_stage(project) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "claims.timing"]
    return subprocess.run(command, cwd=project, env=stage_environment(), capture_output=True, text=True)


def test_the_stage_writes_its_table_and_what_it_was_measured_on(project):
    done = run_stage(project)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(pd.read_csv(project / "reports/claims/timing.csv")) == 8 * (2 + 2 + 3)
    assert (project / "reports/claims/environment/timing.json").exists()


def test_without_images_the_stage_says_what_to_do(project):
    (project / "data/processed/train/images.npy").unlink()
    done = run_stage(project)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "dvc repro preprocess" in done.stderr
    assert done.stderr.count("\n") == 1
