"""How a network with Batch Normalization differs between training and inference mode, by batch size and without any training."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.images.arrays import Examples

Statistics = tuple[tf.Tensor, tf.Tensor]  # mean and biased variance, float32 (batches, 1, units), or (1, 1, units) for all batches


def measure_discrepancy(model: keras.Sequential, examples: Examples, batch_size: int) -> list[dict[str, Any]]:
    """Return one row per BN layer l at batches of m. The network stays as it is; images that do not fill a batch are left out.

    Training mode normalizes each batch of m images by its own statistics. Inference mode normalizes the same images by
    what the moving averages tend to at batches of m: the means, over just these batches so that nothing but the mode
    differs, of batch means and, as Keras has it, of biased variances. Dropout is off.

    `divergence` is the mean of KL(inference ‖ training) in nats. `rms_ratio` is the root mean square of the layer's
    normalized values in inference mode over that in training mode, and `theory` (m / (m − 1))^(l / 2): each
    layer's moving variance is too small by (m − 1) / m, and the layer passes on what it scales up by that.

    The theory assumes that the images of a batch are independent of each other in every layer. Above the first they are
    not: all normalized batches have the mean 0, so that the mean of their variances falls short of the population's
    only by what a nonlinearity adds. Nor does the theory know ε, or units that are silent in whole batches.
    """
    first = next(index for index, layer in enumerate(model.layers) if isinstance(layer, keras.layers.BatchNormalization))
    features = tf.constant(examples.images)
    for layer in model.layers[:first]:  # the same in both modes, however the images are batched
        features = layer(features, training=False)
    whole = len(features) // batch_size * batch_size
    batches, labels = tf.reshape(features[:whole], (-1, batch_size, features.shape[1])), examples.labels[:whole]
    training, statistics, training_rms = _pass(model.layers[first:-1], batches)
    averages = [(tf.reduce_mean(mean, 0, keepdims=True), tf.reduce_mean(variance, 0, keepdims=True)) for mean, variance in statistics]
    inference, _, inference_rms = _pass(model.layers[first:-1], batches, averages)
    log_p, log_q = tf.nn.log_softmax(inference), tf.nn.log_softmax(training)
    measured = {
        "batch_size": batch_size,
        "accuracy_training_mode": float((np.argmax(training, axis=-1).ravel() == labels).mean()),
        "accuracy_inference_mode": float((np.argmax(inference, axis=-1).ravel() == labels).mean()),
        "divergence": float(tf.reduce_mean(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1))),
    }
    ratios = [float(in_inference / in_training) for in_inference, in_training in zip(inference_rms, training_rms, strict=True)]
    factor = batch_size / (batch_size - 1)
    return [{**measured, "layer": layer, "rms_ratio": ratio, "theory": factor ** (layer / 2)} for layer, ratio in enumerate(ratios, 1)]


def _pass(
    layers: Sequence[keras.Layer], batches: tf.Tensor, given: Sequence[Statistics] | None = None
) -> tuple[tf.Tensor, list[Statistics], list[tf.Tensor]]:
    """Pass features `(batches, m, units)` on, all batches at once, normalized by the `given` statistics or each batch by its own.

    Returns:
        Logits `(batches, m, classes)`; and by BN layer the statistics taken and the root mean square of the normalized values.
    """
    statistics: list[Statistics] = []
    rms: list[tf.Tensor] = []
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            mean, variance = given[len(statistics)] if given else tf.nn.moments(batches, axes=[1], keepdims=True)
            normalized = (batches - mean) * tf.math.rsqrt(variance + layer.epsilon)
            statistics.append((mean, variance))
            rms.append(tf.sqrt(tf.reduce_mean(normalized**2)))
            batches = layer.gamma * normalized + layer.beta
        else:
            batches = layer(batches, training=False)
    return batches, statistics, rms
