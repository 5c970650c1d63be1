import hashlib

import keras
import numpy as np
import pytest

from pipeline.training.network import NORMALIZATIONS, build_model
from pipeline.training.seeds import data_order
from pipeline.trials.parameters import Parameters


def build(parameters: Parameters, seed: int = 0, **fields) -> keras.Sequential:
    return build_model(parameters.trial.model_copy(update=fields), seed, (32, 32, 3), 10)


def kernels_hash(model: keras.Sequential) -> str:
    kernels = [layer.kernel.numpy().tobytes() for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    return hashlib.sha256(b"".join(kernels)).hexdigest()


def layer_kinds(model: keras.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def test_has_the_notebooks_parameter_counts(parameters):
    assert build(parameters).count_params() == 1_738_890
    assert build(parameters, normalization="batch").count_params() == 1_738_890 + 3_584


def test_normalizes_after_each_relu_as_the_notebook_does(parameters):
    kinds = layer_kinds(build(parameters, normalization="batch"))
    assert kinds == ["Rescaling", "Flatten", *["Dense", "ReLU", "BatchNormalization"] * 3, "Dense", "Softmax"]


def test_normalizes_before_the_activation_on_request(parameters):
    kinds = layer_kinds(build(parameters, normalization="batch", normalization_position="before_activation"))
    assert kinds[2:5] == ["Dense", "BatchNormalization", "ReLU"]


def test_drops_out_after_normalization(parameters):
    kinds = layer_kinds(build(parameters, normalization="batch", dropout=0.3))
    assert kinds[2:6] == ["Dense", "ReLU", "BatchNormalization", "Dropout"]


def test_gives_the_batch_normalization_its_momentum_and_epsilon(parameters):
    layer = build(parameters, normalization="batch", batch_norm_momentum=0.9, batch_norm_epsilon=1e-5).get_layer("normalization_1")
    assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)


@pytest.mark.parametrize("fields", [{"normalization": name} for name in NORMALIZATIONS] + [{"dropout": 0.3}])
def test_the_same_seed_starts_every_arm_from_the_same_kernels(parameters, fields):
    assert kernels_hash(build(parameters, seed=3, **fields)) == kernels_hash(build(parameters, seed=3))


def test_another_seed_starts_from_other_kernels(parameters):
    assert kernels_hash(build(parameters, seed=1)) != kernels_hash(build(parameters, seed=2))


def test_layers_of_the_same_shape_start_apart(parameters):
    model = build(parameters, hidden_units=[16, 16, 16])
    assert not np.array_equal(model.get_layer("dense_2").kernel, model.get_layer("dense_3").kernel)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("glorot_uniform", keras.initializers.GlorotUniform),
        ("glorot_normal", keras.initializers.GlorotNormal),
        ("he_uniform", keras.initializers.HeUniform),
        ("he_normal", keras.initializers.HeNormal),
    ],
)
def test_initializes_as_keras_does_under_the_same_name(parameters, name, reference):
    kernel = build(parameters, kernel_initializer=name).get_layer("dense_2").kernel
    initializer = build(parameters, kernel_initializer=name).get_layer("dense_2").kernel_initializer
    np.testing.assert_array_equal(kernel, reference(seed=initializer.seed)(kernel.shape))


def test_kernel_gain_multiplies_the_initial_kernels(parameters):
    ordinary, tenfold = (build(parameters, kernel_gain=gain).get_layer("dense_1").kernel.numpy() for gain in (1.0, 10.0))
    np.testing.assert_allclose(tenfold, 10 * ordinary, rtol=1e-5, atol=1e-5)


def test_takes_raw_bytes_and_gives_class_probabilities(parameters):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    probabilities = build(parameters)(images).numpy()
    assert probabilities.shape == (4, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_a_linear_model_has_no_hidden_layer(parameters):
    assert layer_kinds(build(parameters, hidden_units=[])) == ["Rescaling", "Flatten", "Dense", "Softmax"]


def test_the_data_order_depends_on_seed_and_epoch_alone():
    np.testing.assert_array_equal(data_order(0, 1, 100), data_order(0, 1, 100))
    assert not np.array_equal(data_order(0, 1, 100), data_order(0, 2, 100))
    assert not np.array_equal(data_order(0, 1, 100), data_order(1, 1, 100))
    assert sorted(data_order(0, 1, 100)) == list(range(100))
