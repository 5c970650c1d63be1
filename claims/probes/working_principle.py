"""Batch Normalization by its formulas, in NumPy and float64, against what Keras does in a trained network on a real batch."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from claims.probes.network_probes import LayerPass, restoring, trace
from pipeline.images.arrays import Examples
from pipeline.serving.folding import fold_batch_normalization

TOLERANCE = 1e-5
LOGIT_TOLERANCE = 1e-4

Row = dict[str, Any]
Array = NDArray[np.float64]


def normalize(inputs: Array, mean: Array, variance: Array, epsilon: float) -> Array:
    """Return the normalized values x̂ = (x − μ) / √(σ² + ε) of inputs `(m, units)` (Ioffe & Szegedy 2015, algorithm 1)."""
    return (inputs - mean) / np.sqrt(variance + epsilon)


def propagate_back(inputs: Array, upstream: Array, gamma: Array, epsilon: float) -> Array:
    """Return ∂L/∂x of inputs `(m, units)` in training mode, from g = ∂L/∂y, `upstream`, of the same shape.

    ∂L/∂x_i = γ / (m √(σ² + ε)) · (m g_i − Σ_j g_j − x̂_i Σ_j g_j x̂_j): the chain rule of Ioffe & Szegedy (2015,
    section 3), simplified.
    """
    normalized = normalize(inputs, inputs.mean(axis=0), inputs.var(axis=0), epsilon)
    through_statistics = upstream.sum(axis=0) + normalized * (upstream * normalized).sum(axis=0)
    scale = gamma / (len(inputs) * np.sqrt(inputs.var(axis=0) + epsilon))
    return np.asarray(scale * (len(inputs) * upstream - through_statistics))


def check_working_principle(model: keras.Sequential, batch: Examples, mates: NDArray[np.uint8], images: NDArray[np.uint8]) -> list[Row]:
    """Check every BN layer of a network. The network stays as it is.

    Training mode is checked on `batch`, and with the other images `mates` beside its first one. Inference mode is checked on
    `images`, which were not trained on. A row's `largest_error` is over units and images. Without a `tolerance` it is shown and
    not tested.
    """
    with restoring(model.variables):
        rows = list(_check_training_mode(model, batch))
        among_others = np.concatenate([batch.images[:1], mates])
        logits, others = (_float64(trace(model, beside, batch_statistics=True)[-1].outputs) for beside in (batch.images, among_others))
        rows.append(_row("batch_mates", None, logits[0] - others[0]))
    folded, logits = (trace(network, images, batch_statistics=False)[-1].outputs for network in (fold_batch_normalization(model), model))
    return [*rows, *_check_inference_mode(model, images), _row("folding", None, folded - logits, LOGIT_TOLERANCE)]


def _check_training_mode(model: keras.Sequential, batch: Examples) -> Iterator[Row]:
    averages = [[_float64(layer.moving_mean), _float64(layer.moving_variance)] for layer in model.layers if _normalizes(layer)]
    with tf.GradientTape() as tape:
        passes = trace(model, batch.images, batch_statistics=True)
        targets = tf.cast(batch.labels, tf.int32)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, passes[-1].outputs))
    normalizations = [layer_pass for layer_pass in passes if _normalizes(layer_pass.layer)]
    gradients = tape.gradient(loss, [[layer_pass.inputs, layer_pass.outputs] for layer_pass in normalizations])
    for layer, layer_pass in enumerate(normalizations):
        yield from _check_outputs(layer + 1, layer_pass)
        yield from _check_moving_averages(layer + 1, layer_pass, *averages[layer])
        yield from _check_gradient(layer + 1, layer_pass, *map(_float64, gradients[layer]))


def _check_outputs(number: int, layer_pass: LayerPass) -> Iterator[Row]:
    layer, inputs, outputs = layer_pass.layer, _float64(layer_pass.inputs), _float64(layer_pass.outputs)
    gamma, beta, variance = _float64(layer.gamma), _float64(layer.beta), inputs.var(axis=0)
    with restoring(layer.variables):
        layer.gamma.assign(np.ones_like(gamma))
        layer.beta.assign(np.zeros_like(beta))
        normalized = _float64(layer(layer_pass.inputs, training=True))
    sd = np.sqrt(variance / (variance + layer.epsilon))
    yield _row("normalized_mean", number, normalized.mean(axis=0), TOLERANCE)
    yield _row("normalized_sd", number, normalized.std(axis=0) - sd, TOLERANCE)
    yield _row("normalized_sd_from_1", number, normalized.std(axis=0) - 1)
    yield _row("output_mean", number, outputs.mean(axis=0) - beta, TOLERANCE)
    yield _row("output_sd", number, outputs.std(axis=0) - np.abs(gamma) * sd, TOLERANCE)
    by_hand = gamma * normalize(inputs, inputs.mean(axis=0), variance, layer.epsilon) + beta
    yield _row("keras_training_mode", number, outputs - by_hand, TOLERANCE)


def _check_moving_averages(number: int, layer_pass: LayerPass, moving_mean: Array, moving_variance: Array) -> Iterator[Row]:
    """Check what one batch does to them, its biased variance included: momentum · before + (1 − momentum) · of the batch."""
    layer, inputs = layer_pass.layer, _float64(layer_pass.inputs)
    means = layer.momentum * moving_mean + (1 - layer.momentum) * inputs.mean(axis=0)
    variances = layer.momentum * moving_variance + (1 - layer.momentum) * inputs.var(axis=0)
    yield _row("moving_mean", number, _float64(layer.moving_mean) - means, TOLERANCE)
    yield _row("moving_variance", number, _float64(layer.moving_variance) - variances, TOLERANCE)


def _check_gradient(number: int, layer_pass: LayerPass, gradient: Array, upstream: Array) -> Iterator[Row]:
    """Check it in shares of its largest value: gradients of a mean loss are far below 1."""
    by_hand = propagate_back(_float64(layer_pass.inputs), upstream, _float64(layer_pass.layer.gamma), layer_pass.layer.epsilon)
    largest = np.abs(gradient).max()
    yield _row("backward_pass", number, (gradient - by_hand) / largest, TOLERANCE)
    yield _row("gradient_sum", number, gradient.sum(axis=0) / largest, TOLERANCE)


def _check_inference_mode(model: keras.Sequential, images: NDArray[np.uint8]) -> Iterator[Row]:
    normalizations = [layer_pass for layer_pass in trace(model, images, batch_statistics=False) if _normalizes(layer_pass.layer)]
    for number, (layer, inputs, outputs) in enumerate(normalizations, start=1):
        normalized = normalize(_float64(inputs), _float64(layer.moving_mean), _float64(layer.moving_variance), layer.epsilon)
        yield _row("inference_mean", number, normalized.mean(axis=0))
        yield _row("inference_sd", number, normalized.std(axis=0) - 1)
        by_hand = _float64(layer.gamma) * normalized + _float64(layer.beta)
        yield _row("keras_inference_mode", number, _float64(outputs) - by_hand, TOLERANCE)


def _row(check: str, layer: int | None, errors: Array, tolerance: float | None = None) -> Row:
    largest = float(np.abs(errors).max())
    return {
        "check": check,
        "layer": layer,
        "largest_error": largest,
        "tolerance": tolerance,
        "passes": tolerance is None or largest <= tolerance,
    }


def _normalizes(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _float64(values: tf.Tensor) -> Array:
    return np.asarray(values, np.float64)
