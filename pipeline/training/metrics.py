"""What is measured after each epoch. The names are those of `metric_names`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import keras
import tensorflow as tf

from pipeline.images.arrays import Examples
from pipeline.training.inference import infer, infer_in_batches, infer_with, normalize, recalibrate
from pipeline.training.metric_names import FURTHER_MOMENTUM, RECALIBRATED_ON, TRAIN_EVAL_EXAMPLES, VARIANCE_RATIO
from pipeline.training.steps import FurtherAverages, count_correct

Evaluation = Callable[[Examples, Examples, int], dict[str, float]]


class _Features(NamedTuple):
    """What the first layer with weights makes of images, float32 `(n, ...)`, and their labels, uint8 `(n,)`."""

    features: tf.Tensor
    labels: tf.Tensor


def build_evaluation(
    model: keras.Sequential, further: Sequence[FurtherAverages] = (), recalibration_images: Sequence[int] = ()
) -> Evaluation:
    """Compile a function that measures the model after an epoch on training and validation examples, given the batch size."""
    # Nothing normalises the first layer's input, and it holds nine tenths of the work: its output is computed once for each
    # image and serves the moving averages and all other statistics alike.
    first = next(index for index, layer in enumerate(model.layers) if layer.weights)
    end = first if isinstance(model.layers[first], keras.layers.BatchNormalization) else first + 1
    stem, rest = model.layers[:end], model.layers[end:-1]
    infer_stem = tf.function(partial(infer, stem), reduce_retracing=True)
    has_batch_norm = any(isinstance(layer, keras.layers.BatchNormalization) for layer in rest)

    @tf.function
    def measure(train: _Features, validation: _Features, batch_size: tf.Tensor) -> dict[str, tf.Tensor]:
        metrics = {
            **_score("val_{}", validation.labels, infer(rest, validation.features)),
            **_score("train_eval_{}", train.labels, infer(rest, train.features)),
        }
        if has_batch_norm:
            metrics |= _measure_other_statistics(rest, train, validation, batch_size)
            for averages in further:
                outputs = infer_with(averages.statistics, rest, validation.features)
                metrics |= _score(FURTHER_MOMENTUM.format("{}", averages.momentum), validation.labels, outputs)
        return metrics

    @tf.function(reduce_retracing=True)
    def measure_recalibrated(train_features: tf.Tensor, validation: _Features) -> dict[str, tf.Tensor]:
        statistics, _ = recalibrate(rest, train_features)
        return _score("{}", validation.labels, infer_with(statistics, rest, validation.features))

    def evaluate(train: Examples, validation: Examples, batch_size: int) -> dict[str, float]:
        train_eval = train.first(TRAIN_EVAL_EXAMPLES)
        inferred = [_Features(infer_in_batches(infer_stem, examples.images), examples.labels) for examples in (train_eval, validation)]
        metrics = measure(*inferred, tf.constant(batch_size))
        for count in recalibration_images if has_batch_norm else ():
            features = infer_in_batches(infer_stem, train.first(count).images)
            recalibrated = measure_recalibrated(features, inferred[1])
            metrics |= {RECALIBRATED_ON.format(name, count): value for name, value in recalibrated.items()}
        return {name: float(value) for name, value in metrics.items()}

    return evaluate


def _measure_other_statistics(
    layers: Sequence[keras.Layer], train: _Features, validation: _Features, batch_size: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Measure what the moving averages of Batch Normalization cost, by putting others in their place, with dropout off.

    `…_recalibrated`: mean and biased variance over all of `train`, layer by layer;
    `…_batch_statistics`: those of each batch of m = `batch_size` validation examples, as in training; the last may be smaller;
    `…_unbiased`: moving variances with Bessel's correction, the factor m / (m − 1), which is right for Dense layers;
    `variance_ratio_<i>`: the i-th layer's moving variance over the recalibrated one, each a mean over units.
    """
    batch_norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    correction = tf.cast(batch_size, tf.float32) / tf.cast(tf.maximum(1, batch_size - 1), tf.float32)
    statistics, train_recalibrated = recalibrate(layers, train.features)
    unbiased = [(layer.moving_mean.value, layer.moving_variance * correction) for layer in batch_norms]
    return {
        **_score("val_{}_recalibrated", validation.labels, infer_with(statistics, layers, validation.features)),
        **_score("train_eval_{}_recalibrated", train.labels, train_recalibrated),
        **_score("val_{}_batch_statistics", validation.labels, _infer_by_batch(layers, validation.features, batch_size)),
        **_score("val_{}_unbiased", validation.labels, infer_with(unbiased, layers, validation.features)),
        **{
            VARIANCE_RATIO.format(index): tf.math.divide_no_nan(tf.reduce_mean(layer.moving_variance), tf.reduce_mean(variance))
            for index, (layer, (_, variance)) in enumerate(zip(batch_norms, statistics, strict=True), start=1)
        },
    }


def _infer_by_batch(layers: Sequence[keras.Layer], features: tf.Tensor, batch_size: tf.Tensor) -> tf.Tensor:
    """Apply layers with dropout off, and normalise each batch of features `(n, ...)` by its own mean and variance."""
    for layer in layers:
        if not isinstance(layer, keras.layers.BatchNormalization):
            features = layer(features, training=False)
            continue
        shape, in_whole_batches = features.shape[1:], tf.shape(features)[0] // batch_size * batch_size
        batches = tf.reshape(features[:in_whole_batches], (-1, batch_size, *shape)), features[None, in_whole_batches:]
        axes = list(range(1, 1 + len(shape)))
        normalized = [normalize(layer, some, *tf.nn.moments(tf.cast(some, tf.float32), axes=axes, keepdims=True)) for some in batches]
        features = tf.concat([tf.reshape(some, (-1, *shape)) for some in normalized], axis=0)
    return features


def _score(name: str, labels: tf.Tensor, logits: tf.Tensor) -> dict[str, tf.Tensor]:
    targets = tf.cast(labels, tf.int32)
    correct, count = tf.cast(count_correct(targets, logits), tf.float64), tf.cast(tf.size(targets), tf.float64)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
    return {name.format("loss"): loss, name.format("accuracy"): correct / count}
