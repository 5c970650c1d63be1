"""Batch Normalization by its formulas, in NumPy and float64, against what Keras does in a trained network on a real batch."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from claims.probes.network_probes import restoring, trace
from pipeline.images.arrays import Examples
from pipeline.serving.folding import fold_batch_normalization

TOLERANCE, LOGIT_TOLERANCE = 1e-5, 1e-4
WITHOUT_TOLERANCE = ("normalized_sd_from_1", "inference_mean", "inference_sd", "batch_mates")  # shown and not tested

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
    passes = trace(model, images, batch_statistics=False)
    for number, (layer, inputs, outputs) in enumerate((each for each in passes if _normalizes(each.layer)), start=1):
        normalized = normalize(_float64(inputs), _float64(layer.moving_mean), _float64(layer.moving_variance), layer.epsilon)
        by_hand = _float64(layer.gamma) * normalized + _float64(layer.beta)
        rows.append(_row("inference_mean", number, normalized.mean(axis=0)))
        rows.append(_row("inference_sd", number, normalized.std(axis=0) - 1))
        rows.append(_row("keras_inference_mode", number, _float64(outputs) - by_hand))
    folded = trace(fold_batch_normalization(model), images, batch_statistics=False)
    return [*rows, _row("folding", None, folded[-1].outputs - passes[-1].outputs)]


def _check_training_mode(model: keras.Sequential, batch: Examples) -> Iterator[Row]:
    averages = [(_float64(layer.moving_mean), _float64(layer.moving_variance)) for layer in model.layers if _normalizes(layer)]
    with tf.GradientTape() as tape:
        passes = trace(model, batch.images, batch_statistics=True)
        targets = tf.cast(batch.labels, tf.int32)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, passes[-1].outputs))
    normalizations = [each for each in passes if _normalizes(each.layer)]
    gradients = tape.gradient(loss, [[each.inputs, each.outputs] for each in normalizations])
    for index, (each, (mean_before, variance_before)) in enumerate(zip(normalizations, averages, strict=True)):
        layer, momentum, epsilon = each.layer, each.layer.momentum, each.layer.epsilon
        inputs, outputs, gamma, beta = map(_float64, (each.inputs, each.outputs, layer.gamma, layer.beta))
        gradient, upstream = map(_float64, gradients[index])
        mean, variance = inputs.mean(axis=0), inputs.var(axis=0)
        sd, largest = np.sqrt(variance / (variance + epsilon)), np.abs(gradient).max()
        with restoring(layer.variables):
            layer.gamma.assign(np.ones_like(gamma))
            layer.beta.assign(np.zeros_like(beta))
            normalized = _float64(layer(each.inputs, training=True))
        errors = {
            "normalized_mean": normalized.mean(axis=0),
            "normalized_sd": normalized.std(axis=0) - sd,
            "normalized_sd_from_1": normalized.std(axis=0) - 1,
            "output_mean": outputs.mean(axis=0) - beta,
            "output_sd": outputs.std(axis=0) - np.abs(gamma) * sd,
            "keras_training_mode": outputs - (gamma * normalize(inputs, mean, variance, epsilon) + beta),
            # What one batch does to the moving averages, its biased variance included.
            "moving_mean": _float64(layer.moving_mean) - (momentum * mean_before + (1 - momentum) * mean),
            "moving_variance": _float64(layer.moving_variance) - (momentum * variance_before + (1 - momentum) * variance),
            # In shares of the largest gradient: gradients of a mean loss are far below 1.
            "backward_pass": (gradient - propagate_back(inputs, upstream, gamma, epsilon)) / largest,
            "gradient_sum": gradient.sum(axis=0) / largest,
        }
        yield from (_row(check, index + 1, error) for check, error in errors.items())


def _row(check: str, layer: int | None, errors: Array) -> Row:
    largest = float(np.abs(errors).max())
    tolerance = None if check in WITHOUT_TOLERANCE else LOGIT_TOLERANCE if check == "folding" else TOLERANCE
    passes = tolerance is None or largest <= tolerance
    return {"check": check, "layer": layer, "largest_error": largest, "tolerance": tolerance, "passes": passes}


def _normalizes(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _float64(values: tf.Tensor) -> Array:
    return np.asarray(values, np.float64)
