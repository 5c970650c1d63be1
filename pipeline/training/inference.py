"""Networks in inference mode, with their own statistics or with others in place of the moving averages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

IMAGES_PER_BATCH = 1_000

Statistics = tuple[tf.Tensor, tf.Tensor]  # mean and variance of one Batch Normalization, float32 `(units,)` each


def predict(model: keras.Sequential, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return class probabilities, float32 `(n, classes)`, in inference mode for uint8 images `(n, height, width, channels)`."""
    probabilities: NDArray[np.float32] = infer_in_batches(partial(infer, model.layers), images).numpy()
    return probabilities


def infer(layers: Sequence[keras.Layer], features: tf.Tensor) -> tf.Tensor:
    """Apply layers in inference mode."""
    for layer in layers:
        features = layer(features, training=False)
    return features


def infer_in_batches(function: Callable[[tf.Tensor], tf.Tensor], images: NDArray[np.uint8]) -> tf.Tensor:
    """Apply a function to a thousand images at a time."""
    starts = range(0, len(images), IMAGES_PER_BATCH)
    return tf.concat([function(tf.constant(images[start : start + IMAGES_PER_BATCH])) for start in starts], axis=0)


def infer_with(statistics: Iterable[Statistics], layers: Sequence[keras.Layer], features: tf.Tensor) -> tf.Tensor:
    """Apply layers in inference mode, with these statistics in place of each Batch Normalization's moving averages."""
    remaining = iter(statistics)
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            features = normalize(layer, features, *next(remaining))
        else:
            features = layer(features, training=False)
    return features


def recalibrate(layers: Sequence[keras.Layer], features: tf.Tensor) -> tuple[list[Statistics], tf.Tensor]:
    """Compute the population statistics of `features` layer by layer: mean and biased variance of each layer's own input.

    This is Algorithm 2 of Ioffe & Szegedy (2015), with dropout off. Each layer sees the layers before it as they are when
    recalibrated.

    Returns:
        The statistics of each Batch Normalization, and the output for `features`.
    """
    statistics: list[Statistics] = []
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            exact = tf.cast(features, tf.float32)
            statistics.append(tf.nn.moments(exact, axes=list(range(exact.shape.rank - 1))))
            features = normalize(layer, features, *statistics[-1])
        else:
            features = layer(features, training=False)
    return statistics, features


def normalize(layer: keras.layers.BatchNormalization, features: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    """Normalize by the given statistics, then scale and shift as the layer does."""
    return tf.nn.batch_normalization(tf.cast(features, tf.float32), mean, variance, layer.beta, layer.gamma, layer.epsilon)
