"""Training steps: forward, backward, update, many in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pipeline.images.arrays import Examples

IMAGES_PER_CALL = 3_200  # gathered at a time: few enough to stay in the cache, many enough to make a call's overhead vanish

TrainSteps = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class FurtherAverages:
    """Moving averages of another momentum, kept beside those of a model's Batch Normalization layers.

    A momentum decides nothing about the weights, so several can be followed in one training. What a batch contributed is read
    off the layer's own average, μ' = m·μ + (1 − m)·batch, so any layer's own estimator of the variance holds here too.
    """

    def __init__(self, model: keras.Sequential, momentum: float) -> None:
        self.momentum = momentum
        self._layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
        self._averages = [[tf.Variable(own.value, trainable=False) for own in _own_averages(layer)] for layer in self._layers]

    @property
    def statistics(self) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Mean and variance of each layer, float32 `(units,)`."""
        return [(mean.value(), variance.value()) for mean, variance in self._averages]

    def follow(self, before: Sequence[Sequence[tf.Tensor]]) -> None:
        """Take up the last batch. `before` holds the layers' own averages before it."""
        for layer, averages, olds in zip(self._layers, self._averages, before, strict=True):
            for average, own, old in zip(averages, _own_averages(layer), olds, strict=True):
                batch = (own.value - layer.momentum * old) / (1 - layer.momentum)
                average.assign(self.momentum * average + (1 - self.momentum) * batch)

    def own_averages(self) -> list[list[tf.Tensor]]:
        """Return the layers' own averages as they are now."""
        return [[tf.identity(own.value) for own in _own_averages(layer)] for layer in self._layers]


def _own_averages(layer: keras.layers.BatchNormalization) -> tuple[keras.Variable, keras.Variable]:
    return layer.moving_mean, layer.moving_variance


def build_train_steps(
    model: keras.Sequential, optimizer: keras.optimizers.Optimizer, further: Sequence[FurtherAverages] = ()
) -> TrainSteps:
    """Compile a function that trains on several batches in one call.

    It takes uint8 images `(steps, batch, height, width, channels)` and labels `(steps, batch)`, and returns the sum of the
    losses (nats, float32) and the number of correct predictions (int32), both in training mode before each update.
    """
    network = keras.Model(model.inputs, model.get_layer("logits").output)
    optimizer.build(network.trainable_variables)
    images = tf.TensorSpec((None, *model.input_shape), tf.uint8)

    @tf.function(input_signature=[images, tf.TensorSpec((None, None), tf.uint8)])
    def train_steps(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss_sum, correct = tf.constant(0.0), tf.constant(0)
        for step in tf.range(tf.shape(images)[0]):
            before = further[0].own_averages() if further else []
            targets = tf.cast(labels[step], tf.int32)
            with tf.GradientTape() as tape:
                logits = network(images[step], training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
                loss = tf.reduce_mean(losses)
            gradients = tape.gradient(loss, network.trainable_variables)
            optimizer.apply(gradients, network.trainable_variables)
            for averages in further:
                averages.follow(before)
            loss_sum += tf.reduce_sum(losses)
            correct += count_correct(targets, logits)
        return loss_sum, correct

    return train_steps  # type: ignore[no-any-return]


def train_epoch(train_steps: TrainSteps, train: Examples, order: NDArray[np.int64], batch_size: int) -> dict[str, float]:
    """Train on every example once, in the given order, and return `loss` and `accuracy` as Keras reports them."""
    loss_sum, correct = 0.0, 0
    for indices in _group_batches(order, batch_size):
        chunk_loss, chunk_correct = train_steps(tf.constant(train.images[indices]), tf.constant(train.labels[indices]))
        loss_sum += float(chunk_loss)
        correct += int(chunk_correct)
    return {"loss": loss_sum / len(order), "accuracy": correct / len(order)}


def _group_batches(order: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Cut an epoch into index arrays `(steps, batch)`. The last, smaller batch is kept, as Keras does."""
    in_whole_batches = len(order) // batch_size * batch_size
    images_per_call = max(1, IMAGES_PER_CALL // batch_size) * batch_size
    for start in range(0, in_whole_batches, images_per_call):
        yield order[start : min(start + images_per_call, in_whole_batches)].reshape(-1, batch_size)
    if in_whole_batches < len(order):
        yield order[None, in_whole_batches:]


def count_correct(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return how many int32 `targets` `(n,)` have the largest of the logits `(n, classes)`."""
    return tf.reduce_sum(tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == targets, tf.int32))
