"""How a network with Batch Normalization differs between training and inference mode, by batch size and without any training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pipeline.images.arrays import Examples

Row = dict[str, Any]


class _Statistics(NamedTuple):
    """Mean and biased variance, float32 `(batches, 1, units)`, or `(1, 1, units)` when all batches share them."""

    mean: tf.Tensor
    variance: tf.Tensor


class _Pass(NamedTuple):
    """Logits `(batches, m, classes)`; and by BN layer the statistics taken and the root mean square of the normalized values."""

    logits: tf.Tensor
    statistics: list[_Statistics]
    rms: list[tf.Tensor]


class Discrepancy:
    """Measures a network without changing it.

    Training mode normalizes each batch of m images by its own statistics. Inference mode normalizes the same images by
    what the moving averages tend to at batches of m: the means, over just these batches so that nothing but the mode
    differs, of batch means and, as Keras has it, of biased variances. Dropout is off.
    """

    def __init__(self, model: keras.Sequential, examples: Examples) -> None:
        first = next(index for index, layer in enumerate(model.layers) if isinstance(layer, keras.layers.BatchNormalization))
        self._rest = model.layers[first:-1]
        # What comes before the first normalization is the same in both modes and at every batch size.
        self._features, self._labels = tf.constant(examples.images), examples.labels
        for layer in model.layers[:first]:
            self._features = layer(self._features, training=False)

    def measure(self, batch_size: int) -> list[Row]:
        """Return one row per BN layer l at batches of m. Images that do not fill a batch are left out.

        `divergence` is the mean of KL(inference ‖ training) in nats. `rms_ratio` is the root mean square of the layer's
        normalized values in inference mode over that in training mode, and `theory` (m / (m − 1))^(l / 2): each
        layer's moving variance is too small by (m − 1) / m, and the layer passes on what it scales up by that.

        The theory assumes that the images of a batch are independent of each other in every layer. Above the first they are
        not: all normalized batches have the mean 0, so that the mean of their variances falls short of the population's
        only by what a nonlinearity adds. Nor does the theory know ε, or units that are silent in whole batches.
        """
        whole = len(self._labels) // batch_size * batch_size
        batches, labels = tf.reshape(self._features[:whole], (-1, batch_size, self._features.shape[1])), self._labels[:whole]
        training = _pass(self._rest, batches, lambda _, inputs: _Statistics(*tf.nn.moments(inputs, axes=[1], keepdims=True)))
        averages = [_Statistics(*(tf.reduce_mean(of, axis=0, keepdims=True) for of in statistics)) for statistics in training.statistics]
        inference = _pass(self._rest, batches, lambda layer, _: averages[layer])
        log_p, log_q = tf.nn.log_softmax(inference.logits), tf.nn.log_softmax(training.logits)
        measured = {
            "batch_size": batch_size,
            "accuracy_training_mode": float((np.argmax(training.logits, axis=-1).ravel() == labels).mean()),
            "accuracy_inference_mode": float((np.argmax(inference.logits, axis=-1).ravel() == labels).mean()),
            "divergence": float(tf.reduce_mean(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1))),
        }
        factor = batch_size / (batch_size - 1)
        return [
            {**measured, "layer": layer, "rms_ratio": float(of_inference / of_training), "theory": factor ** (layer / 2)}
            for layer, (of_inference, of_training) in enumerate(zip(inference.rms, training.rms, strict=True), start=1)
        ]


def _pass(layers: list[keras.Layer], batches: tf.Tensor, statistics_for: Callable[[int, tf.Tensor], _Statistics]) -> _Pass:
    """Pass features `(batches, m, units)` on, all batches at once; `statistics_for` gets each BN layer's number, from 0, and input."""
    statistics: list[_Statistics] = []
    rms: list[tf.Tensor] = []
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            statistics.append(statistics_for(len(statistics), batches))
            normalized = (batches - statistics[-1].mean) * tf.math.rsqrt(statistics[-1].variance + layer.epsilon)
            rms.append(tf.sqrt(tf.reduce_mean(normalized**2)))
            batches = layer.gamma * normalized + layer.beta
        else:
            batches = layer(batches, training=False)
    return _Pass(batches, statistics, rms)
