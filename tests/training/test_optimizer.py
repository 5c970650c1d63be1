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
