import keras
import numpy as np
import pytest

from pipeline.common.errors import PipelineError
from pipeline.serving.folding import fold_batch_normalization
from pipeline.training.network import build_model
from pipeline.training.trial import run_trial


def config_of(parameters, **fields):
    return parameters.trial_config("batch_norm", {"hidden_units": [32, 16], "batch_size": 16, "epochs": 3, **fields}, seed=0)


def logits_of(model: keras.Sequential, images) -> np.ndarray:
    return keras.Model(model.inputs[0], model.get_layer("logits").output)(images, training=False).numpy()


PLACES = [
    {},
    {"dropout": 0.3},
    {"normalization_position": "before_activation"},
    {"normalization_position": "before_activation", "dropout": 0.3},
]


@pytest.mark.parametrize("fields", PLACES)
def test_a_trained_network_gives_the_same_logits_folded(parameters, examples, fields):
    model = run_trial(config_of(parameters, **fields), *examples, lambda _: None)
    logits = logits_of(model, examples[1].images)
    np.testing.assert_allclose(logits_of(fold_batch_normalization(model), examples[1].images), logits, rtol=0, atol=1e-4)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(layer.moving_mean + 0.01)
    assert np.abs(logits_of(model, examples[1].images) - logits).max() > 1e-4  # what is folded matters


@pytest.mark.parametrize("fields", PLACES)
def test_what_is_left_is_the_network_without_batch_normalization(parameters, fields):
    config = config_of(parameters, **fields)
    plain_config = config.model_copy(update={"normalization": "none"})
    folded, plain = fold_batch_normalization(build_model(config, 0, (32, 32, 3), 10)), build_model(plain_config, 0, (32, 32, 3), 10)
    assert [(type(layer), layer.name) for layer in folded.layers] == [(type(layer), layer.name) for layer in plain.layers]
    assert [weight.shape for weight in folded.weights] == [weight.shape for weight in plain.weights]
    assert {weight.dtype for weight in folded.weights} == {"float32"}
    assert folded.count_params() == plain.count_params()


def test_the_model_that_is_folded_stays_as_it_was(parameters):
    model = build_model(config_of(parameters), 0, (32, 32, 3), 10)
    before = [weight.numpy() for weight in model.weights]
    fold_batch_normalization(model)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_network_without_batch_normalization_is_copied(parameters, examples):
    model = build_model(config_of(parameters, normalization="layer"), 0, (32, 32, 3), 10)
    np.testing.assert_array_equal(logits_of(fold_batch_normalization(model), examples[1].images), logits_of(model, examples[1].images))


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.ReLU, keras.layers.BatchNormalization],
        [lambda: keras.layers.Dense(3, activation="relu"), keras.layers.BatchNormalization, keras.layers.ReLU],
    ],
)
def test_batch_normalization_without_a_dense_layer_beside_it_is_refused_by_name(layers):
    model = keras.Sequential([keras.Input((4,)), *(make() for make in layers)])
    name = next(layer.name for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    with pytest.raises(PipelineError, match=f"^{name}: cannot be folded"):
        fold_batch_normalization(model)
