"""What is known of Batch Normalization, as tests: on activations of a small trained network, and on small random ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from claims.probes.network_probes import trace
from claims.probes.working_principle import normalize, propagate_back
from pipeline.serving.folding import fold_batch_normalization
from pipeline.training.network import build_model
from pipeline.training.trial import run_trial

EPSILON = 1e-3


def config_of(parameters, arm="batch_norm", **fields):
    return parameters.trial_config(arm, {"hidden_units": [32, 16], "batch_size": 16, "epochs": 4, **fields}, seed=0)


@pytest.fixture(scope="module")
def trained(parameters, examples) -> keras.Sequential:
    return run_trial(config_of(parameters), *examples, lambda _: None)


@pytest.fixture(scope="module", params=["layer 1", "layer 2", "small", "wide", "two", "offset"])
def activations(request, trained, examples) -> np.ndarray:
    """Inputs of Batch Normalization, float32 `(m, units)`."""
    if request.param.startswith("layer"):
        passes = trace(trained, examples[0].images[:64], batch_statistics=True)
        inputs = [inputs.numpy() for layer, inputs, _ in passes if isinstance(layer, keras.layers.BatchNormalization)]
        return inputs[int(request.param[-1]) - 1]
    shape, mean, sd = {"small": ((4, 3), 0, 0.01), "wide": ((64, 50), 0, 1), "two": ((2, 5), 0, 2), "offset": ((16, 8), 4, 1)}[
        request.param
    ]
    return np.random.default_rng(1).normal(mean, sd, shape).astype(np.float32)


@pytest.fixture
def layer(activations) -> keras.layers.BatchNormalization:
    """A layer that has learned something: no γ of 1, no β of 0, no moving average at its start."""
    random = np.random.default_rng(2)
    layer = keras.layers.BatchNormalization(epsilon=EPSILON)
    layer.build(activations.shape)
    units = activations.shape[1]
    layer.set_weights([random.normal(1, 0.5, units), random.normal(0, 1, units), random.normal(0, 1, units), random.uniform(0.5, 2, units)])
    return layer


def float64(values) -> np.ndarray:
    return np.asarray(values, np.float64)


def by_hand(layer, inputs, mean, variance) -> np.ndarray:
    return float64(layer.gamma) * normalize(inputs, mean, variance, EPSILON) + float64(layer.beta)


def test_in_training_it_normalizes_by_the_batch(layer, activations):
    inputs = float64(activations)
    expected = by_hand(layer, inputs, inputs.mean(axis=0), inputs.var(axis=0))
    np.testing.assert_allclose(layer(activations, training=True), expected, rtol=0, atol=1e-5)


def test_in_inference_it_normalizes_by_its_moving_averages(layer, activations):
    expected = by_hand(layer, float64(activations), float64(layer.moving_mean), float64(layer.moving_variance))
    np.testing.assert_allclose(layer(activations, training=False), expected, rtol=0, atol=1e-5)


def test_normalized_values_have_mean_0_and_almost_sd_1(activations):
    inputs = float64(activations)
    normalized = normalize(inputs, inputs.mean(axis=0), inputs.var(axis=0), EPSILON)
    np.testing.assert_allclose(normalized.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(normalized.std(axis=0), np.sqrt(inputs.var(axis=0) / (inputs.var(axis=0) + EPSILON)))
    assert (normalized.std(axis=0) < 1).all()


def gradients_of(layer, activations):
    """∂L/∂x, ∂L/∂γ and ∂L/∂β by autodiff, for a loss whose ∂L/∂y comes second."""
    weights = np.random.default_rng(3).normal(size=activations.shape).astype(np.float32)
    inputs = tf.constant(activations)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
        loss = tf.reduce_sum(tf.sin(outputs) * weights)
    upstream = np.cos(outputs) * weights
    return tape.gradient(loss, [inputs, layer.gamma, layer.beta]), float64(upstream)


def test_the_closed_form_of_the_backward_pass_is_what_autodiff_gives(layer, activations):
    (gradient, of_gamma, of_beta), upstream = gradients_of(layer, activations)
    inputs = float64(activations)
    expected = propagate_back(inputs, upstream, float64(layer.gamma), EPSILON)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    normalized = normalize(inputs, inputs.mean(axis=0), inputs.var(axis=0), EPSILON)
    np.testing.assert_allclose(of_gamma, (upstream * normalized).sum(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_beta, upstream.sum(axis=0), rtol=1e-4, atol=1e-4)


def test_the_gradients_of_a_batch_sum_to_0(layer, activations):
    """A shift that all inputs of a unit share is normalized away."""
    (gradient, _, _), upstream = gradients_of(layer, activations)
    largest = np.abs(gradient).max()
    np.testing.assert_allclose(gradient.numpy().sum(axis=0) / largest, 0, atol=1e-5)
    assert np.abs(upstream.sum(axis=0)).max() > 0.1  # so it is not that there was nothing to sum


@pytest.mark.parametrize("momentum", [0.99, 0.9, 0.0])
def test_moving_averages_are_predicted_over_several_steps(activations, momentum):
    layer = keras.layers.BatchNormalization(momentum=momentum)
    batches = [scale * activations + scale for scale in (1.0, 2.0, 0.5, 3.0, 1.5)]
    for batch in batches:
        layer(batch, training=True)
    weights = (1 - momentum) * momentum ** np.arange(len(batches))[::-1]
    start = momentum ** len(batches)
    means, variances = (np.stack([getattr(float64(batch), name)(axis=0) for batch in batches]) for name in ("mean", "var"))
    np.testing.assert_allclose(layer.moving_mean, weights @ means, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, start + weights @ variances, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 4, 8, 16])
def test_keras_feeds_the_biased_variance_and_so_expects_too_little(batch_size):
    """Its mean over many batches of independent values with variance 1 is (m − 1) / m; Bessel's correction would make it 1."""
    layer = keras.layers.BatchNormalization(momentum=0.0)  # the moving variance is that of the last batch
    random = np.random.default_rng(4)
    means = []
    for _ in range(20):
        layer(random.normal(size=(batch_size, 5000)).astype(np.float32), training=True)
        means.append(float64(layer.moving_variance).mean())
    expected = (batch_size - 1) / batch_size
    assert np.mean(means) == pytest.approx(expected, abs=0.012)
    assert np.mean(means) * batch_size / (batch_size - 1) == pytest.approx(1, abs=0.025)
    assert abs(expected - 1) > 0.05


def logits_of(model, images, *, batch_statistics=False) -> np.ndarray:
    return trace(model, images, batch_statistics=batch_statistics)[-1].outputs.numpy()


def test_folding_leaves_the_logits_as_they_are(trained, examples):
    images = examples[1].images
    logits, folded = logits_of(trained, images), logits_of(fold_batch_normalization(trained), images)
    assert np.abs(folded - logits).max() < 1e-4
    assert np.abs(logits - logits_of(trained, images, batch_statistics=True)).max() > 0.01  # by which averages matters


def operations_of(model, images) -> list[str]:
    """Kinds of operations that inference computes, in order."""
    infer = tf.function(lambda batch: model(batch, training=False))
    graph = infer.get_concrete_function(tf.TensorSpec(images.shape, tf.uint8)).graph
    return [operation.type for operation in graph.get_operations()]


def test_folded_it_costs_nothing_at_inference(parameters, trained, examples):
    """The folded network computes what the one without Batch Normalization does, on as many parameters."""
    folded, plain = fold_batch_normalization(trained), build_model(config_of(parameters, "baseline"), 0, (32, 32, 3), 10)
    assert folded.count_params() == plain.count_params() < trained.count_params()
    images = examples[1].images
    assert operations_of(folded, images) == operations_of(plain, images)
    assert len(operations_of(trained, images)) > len(operations_of(plain, images))


@pytest.mark.parametrize(("rate", "shift"), [(0.1, 1.11), (0.3, 1.43), (0.5, 2.0)])
@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_dropout_raises_the_variance_after_a_linear_layer(rate, shift, mean):
    """By 1 / (1 − p) for independent inputs with mean 0; a mean μ adds p μ² / (1 − p) to each input's variance."""
    inputs = np.random.default_rng(5).normal(mean, 1, (20_000, 64)).astype(np.float32)
    dense = keras.layers.Dense(32, kernel_initializer=keras.initializers.RandomNormal(seed=6))
    dropout = keras.layers.Dropout(rate, seed=7)
    in_training, at_inference = (dense(dropout(inputs, training=training)).numpy().var(axis=0).mean() for training in (True, False))
    assert in_training / at_inference == pytest.approx(shift + rate * mean**2 / (1 - rate), rel=0.02)


PLACES = ["before_activation", "after_activation"]


def first_dense(model: keras.Sequential) -> keras.layers.Dense:
    return model.get_layer("dense_1")


def radial_share(model, images, labels) -> np.ndarray:
    """Cosine between a unit's weights, with its bias, and their gradient; largest over the units of the first layer."""
    dense = first_dense(model)
    with tf.GradientTape() as tape:
        logits = trace(model, images, batch_statistics=True)[-1].outputs
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(labels, tf.int32), logits))
    weights = np.vstack([float64(dense.kernel), float64(dense.bias)])
    gradients = np.vstack([float64(gradient) for gradient in tape.gradient(loss, [dense.kernel, dense.bias])])
    norms = np.linalg.norm(weights, axis=0) * np.linalg.norm(gradients, axis=0)
    return np.abs((weights * gradients).sum(axis=0)[norms > 0] / norms[norms > 0]).max()


def scale_first_dense(model, factor) -> None:
    dense = first_dense(model)
    dense.set_weights([factor * weight for weight in dense.get_weights()])


@pytest.mark.parametrize("place", PLACES)
def test_gradients_are_orthogonal_to_weights_that_batch_normalization_makes_scale_invariant(parameters, examples, place):
    train = examples[0]
    fields = {"normalization_position": place, "batch_norm_epsilon": 1e-12}
    invariant = run_trial(config_of(parameters, **fields), *examples, lambda _: None)
    plain = run_trial(config_of(parameters, "baseline"), *examples, lambda _: None)
    images, labels = train.images[:64], train.labels[:64]
    assert radial_share(invariant, images, labels) < 1e-5
    assert radial_share(plain, images, labels) > 0.1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_outputs_do_not_depend_on_the_scale_of_a_normalized_layer(parameters, examples, place, factor):
    images = examples[0].images[:64]
    invariant = build_model(config_of(parameters, normalization_position=place, batch_norm_epsilon=1e-12), 0, (32, 32, 3), 10)
    plain = build_model(config_of(parameters, "baseline"), 0, (32, 32, 3), 10)
    before = [logits_of(model, images, batch_statistics=True) for model in (invariant, plain)]
    for model in (invariant, plain):
        scale_first_dense(model, factor)
    after = [logits_of(model, images, batch_statistics=True) for model in (invariant, plain)]
    np.testing.assert_allclose(after[0], before[0], rtol=0, atol=1e-4)
    assert np.abs(after[1] - before[1]).max() > 0.1


def test_epsilon_breaks_scale_invariance_where_activations_are_small(parameters, examples):
    images = examples[0].images[:64]
    model = build_model(config_of(parameters), 0, (32, 32, 3), 10)
    before = logits_of(model, images, batch_statistics=True)
    scale_first_dense(model, 0.01)
    assert np.abs(logits_of(model, images, batch_statistics=True) - before).max() > 0.1


def test_an_images_logits_depend_on_its_batch_mates_in_training_alone(trained, examples):
    images = examples[1].images
    one, other = images[:32], np.concatenate([images[:1], images[32:63]])
    in_training = [logits_of(trained, batch, batch_statistics=True)[0] for batch in (one, other)]
    at_inference = [logits_of(trained, batch)[0] for batch in (one, other)]
    assert np.abs(in_training[0] - in_training[1]).max() > 0.01
    np.testing.assert_allclose(at_inference[0], at_inference[1], rtol=0, atol=1e-5)
