import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.training.optimizer import FusedAdam, build_optimizer


def test_fused_adam_updates_as_keras_adam_does():
    random = np.random.default_rng(0)
    start = [random.normal(size=shape).astype(np.float32) for shape in ((7, 5), (5,))]
    fused, reference = [tf.Variable(value) for value in start], [tf.Variable(value) for value in start]
    optimizers = FusedAdam(0.01), keras.optimizers.Adam(0.01)
    for step in range(50):
        gradients = [tf.constant(random.normal(scale=10.0 ** (step % 5 - 3), size=value.shape).astype(np.float32)) for value in start]
        for optimizer, variables in zip(optimizers, (fused, reference), strict=True):
            optimizer.apply(gradients, variables)
    for ours, theirs, initial in zip(fused, reference, start, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        assert np.abs(ours - initial).max() > 0.05


@pytest.mark.parametrize(("name", "kind"), [("adam", FusedAdam), ("sgd", keras.optimizers.SGD)])
def test_builds_what_is_asked_for(parameters, name, kind):
    optimizer = build_optimizer(parameters.trial.model_copy(update={"optimizer": name, "learning_rate": 0.25}), 210)
    assert isinstance(optimizer, kind)
    assert float(optimizer.learning_rate) == 0.25


def test_a_schedule_lowers_the_learning_rate_by_updates(parameters):
    """210 images in batches of 64 are 4 updates an epoch."""
    settings = {"optimizer": "sgd", "learning_rate": 1.0, "batch_size": 64, "epochs": 2, "learning_rate_decay": 0.5}
    rates = {}
    for schedule in ("constant", "cosine", "exponential"):
        optimizer = build_optimizer(parameters.trial.model_copy(update={**settings, "learning_rate_schedule": schedule}), 210)
        weight, rates[schedule] = tf.Variable(0.0), []
        for _ in range(8):
            rates[schedule].append(float(optimizer.learning_rate))
            optimizer.apply([tf.constant(1.0)], [weight])
        rates[schedule].append(float(optimizer.learning_rate))
    assert rates["constant"] == [1.0] * 9
    assert rates["exponential"] == [1.0] * 4 + [0.5] * 4 + [0.25]
    assert rates["cosine"] == pytest.approx([(1 + math.cos(math.pi * step / 8)) / 2 for step in range(9)], abs=1e-6)


def test_momentum_and_weight_decay_are_those_of_keras(parameters):
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "sgd_momentum": 0.9, "weight_decay": 0.01}
    weight = tf.Variable(1.0)
    optimizer = build_optimizer(parameters.trial.model_copy(update=settings), 210)
    for _ in range(2):
        optimizer.apply([tf.constant(1.0)], [weight])
    first = (1 - 0.1 * 0.01) - 0.1
    assert float(weight) == pytest.approx(first * (1 - 0.1 * 0.01) - 0.1 * 1.9, rel=1e-6)
