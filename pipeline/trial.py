"""One trial: train one network and measure it after every epoch."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pipeline.dataset import TRAIN_EVAL_EXAMPLES, Examples
from pipeline.model import build_model
from pipeline.optimizer import build_optimizer
from pipeline.seeds import data_order
from pipeline.trial_config import TrialConfig

EpochMetrics = dict[str, float]

IMAGES_PER_CALL = 3_200  # gathered at a time: few enough to stay in the cache, many enough to make a call's overhead vanish
IMAGES_PER_EVALUATION_BATCH = 1_000


def compute_deterministically() -> None:
    """Set TensorFlow to one thread and reproducible kernels; call it before TensorFlow's first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)  # else the first worker would take all of its memory


def run_trial(config: TrialConfig, train: Examples, validation: Examples, on_epoch: Callable[[EpochMetrics], None]) -> keras.Sequential:
    """Train as `config` says and return the trained model.

    `on_epoch` gets each epoch's metrics: `epoch` from 1; `loss` and `accuracy` as Keras reports them, running means in
    training mode while the weights move; `val_loss` and `val_accuracy` in inference mode; `train_eval_loss` and
    `train_eval_accuracy`, in inference mode on the first training examples; and, where there is Batch Normalization,
    what `_measure_moving_averages` tells of its moving averages.

    Training stops after an epoch in which a metric is not finite: nothing can be learned from there on.
    """
    keras.utils.clear_session()
    model = build_model(config, config.seed)
    train_steps, evaluate = build_train_steps(model, build_optimizer(config)), _build_evaluation(model)
    train = train if config.training_images == "all" else train.first(config.training_images)
    sizes = [size for size in (*config.earlier_batch_sizes, config.batch_size) for _ in range(config.epochs)]
    for epoch, batch_size in enumerate(sizes, start=1):
        metrics = _train_epoch(train_steps, train, data_order(config.seed, epoch, len(train.labels)), batch_size)
        metrics |= evaluate(train, validation, batch_size)
        on_epoch({"epoch": epoch, **metrics})
        if not all(map(math.isfinite, metrics.values())):
            break
    return model


def predict(model: keras.Sequential, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Class probabilities, float32 `(n, 10)`, in inference mode for uint8 images `(n, 32, 32, 3)`."""
    probabilities: NDArray[np.float32] = _infer_in_batches(partial(_infer, model.layers), images).numpy()
    return probabilities


TrainSteps = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def build_train_steps(model: keras.Sequential, optimizer: keras.optimizers.Optimizer) -> TrainSteps:
    """Compile a function that trains on several batches in one call: `(steps, batch, 32, 32, 3)` and `(steps, batch)`."""
    network = keras.Model(model.inputs, model.get_layer("logits").output)
    optimizer.build(network.trainable_variables)

    @tf.function(input_signature=[tf.TensorSpec((None, None, 32, 32, 3), tf.uint8), tf.TensorSpec((None, None), tf.uint8)])
    def train_steps(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss_sum, correct = tf.constant(0.0), tf.constant(0)
        for step in tf.range(tf.shape(images)[0]):
            targets = tf.cast(labels[step], tf.int32)
            with tf.GradientTape() as tape:
                logits = network(images[step], training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
                loss = tf.reduce_mean(losses)
            gradients = tape.gradient(loss, network.trainable_variables)
            optimizer.apply(gradients, network.trainable_variables)
            loss_sum += tf.reduce_sum(losses)
            correct += _count_correct(targets, logits)
        return loss_sum, correct

    return train_steps  # type: ignore[no-any-return]


def _train_epoch(train_steps: TrainSteps, train: Examples, order: NDArray[np.int64], batch_size: int) -> EpochMetrics:
    loss_sum, correct = 0.0, 0
    for indices in _group_batches(order, batch_size):
        chunk_loss, chunk_correct = train_steps(tf.constant(train.images[indices]), tf.constant(train.labels[indices]))
        loss_sum += float(chunk_loss)
        correct += int(chunk_correct)
    return {"loss": loss_sum / len(order), "accuracy": correct / len(order)}


def _group_batches(order: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Cut an epoch into index arrays `(steps, batch)`; the last, smaller batch is kept, as Keras does."""
    in_whole_batches = len(order) // batch_size * batch_size
    images_per_call = max(1, IMAGES_PER_CALL // batch_size) * batch_size
    for start in range(0, in_whole_batches, images_per_call):
        yield order[start : min(start + images_per_call, in_whole_batches)].reshape(-1, batch_size)
    if in_whole_batches < len(order):
        yield order[None, in_whole_batches:]


class _Features(NamedTuple):
    """What the first Dense layer makes of images, float32 `(n, units)`, and their labels."""

    features: tf.Tensor
    labels: tf.Tensor


Evaluation = Callable[[Examples, Examples, int], EpochMetrics]


def _build_evaluation(model: keras.Sequential) -> Evaluation:
    # Nothing normalises the first Dense layer's input, and it holds nine tenths of the work: its output is computed once
    # for each image and serves the moving averages and the recalibrated statistics alike.
    first_dense = next(index for index, layer in enumerate(model.layers) if isinstance(layer, keras.layers.Dense))
    stem, rest = model.layers[: first_dense + 1], model.layers[first_dense + 1 : -1]
    infer_stem = tf.function(partial(_infer, stem), reduce_retracing=True)

    @tf.function
    def measure(train: _Features, validation: _Features, batch_size: tf.Tensor) -> dict[str, tf.Tensor]:
        metrics = {
            **_score("val_{}", validation.labels, _infer(rest, validation.features)),
            **_score("train_eval_{}", train.labels, _infer(rest, train.features)),
        }
        if any(isinstance(layer, keras.layers.BatchNormalization) for layer in rest):
            metrics |= _measure_moving_averages(rest, train, validation, batch_size)
        return metrics

    def evaluate(train: Examples, validation: Examples, batch_size: int) -> EpochMetrics:
        inferred = [
            _Features(_infer_in_batches(infer_stem, examples.images), examples.labels)
            for examples in (train.first(TRAIN_EVAL_EXAMPLES), validation)
        ]
        metrics = measure(*inferred, tf.constant(batch_size))
        return {name: float(value) for name, value in metrics.items()}

    return evaluate


def _measure_moving_averages(
    layers: Sequence[keras.Layer], train: _Features, validation: _Features, batch_size: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Tell what the moving averages of Batch Normalization cost, by putting others in their place, with dropout off.

    `…_recalibrated`: mean and (biased) variance over all of `train` instead, layer by layer;
    `…_batch_statistics`: those of each batch of m = `batch_size` validation examples, as in training; the last may be smaller;
    `…_unbiased`: moving variances with Bessel's correction, the factor m / (m − 1);
    `variance_ratio_<i>`: the i-th layer's moving variance over the recalibrated one, each a mean over units.
    """
    correction = tf.cast(batch_size, tf.float32) / tf.cast(tf.maximum(1, batch_size - 1), tf.float32)
    ratios: dict[str, tf.Tensor] = {}
    train_features, recalibrated, by_batch, unbiased = train.features, *[validation.features] * 3
    for layer in layers:
        if not isinstance(layer, keras.layers.BatchNormalization):
            train_features, recalibrated, by_batch, unbiased = (
                layer(features, training=False) for features in (train_features, recalibrated, by_batch, unbiased)
            )
            continue
        mean, variance = tf.nn.moments(tf.cast(train_features, tf.float32), axes=[0])
        ratio = tf.math.divide_no_nan(tf.reduce_mean(layer.moving_variance), tf.reduce_mean(variance))
        ratios[f"variance_ratio_{len(ratios) + 1}"] = ratio
        train_features, recalibrated = (_normalize(features, layer, mean, variance) for features in (train_features, recalibrated))
        by_batch = _normalize_by_batch(by_batch, layer, batch_size)
        unbiased = _normalize(unbiased, layer, layer.moving_mean, layer.moving_variance * correction)
    return {
        **_score("val_{}_recalibrated", validation.labels, recalibrated),
        **_score("train_eval_{}_recalibrated", train.labels, train_features),
        **_score("val_{}_batch_statistics", validation.labels, by_batch),
        **_score("val_{}_unbiased", validation.labels, unbiased),
        **ratios,
    }


def _normalize_by_batch(features: tf.Tensor, layer: keras.layers.BatchNormalization, batch_size: tf.Tensor) -> tf.Tensor:
    """Normalize features `(n, units)` in batches, each by its own statistics."""
    units, in_whole_batches = features.shape[1], tf.shape(features)[0] // batch_size * batch_size
    whole, rest = tf.reshape(features[:in_whole_batches], (-1, batch_size, units)), features[None, in_whole_batches:]
    normalized = (
        _normalize(batches, layer, *tf.nn.moments(tf.cast(batches, tf.float32), axes=[1], keepdims=True)) for batches in (whole, rest)
    )
    return tf.concat([tf.reshape(batches, (-1, units)) for batches in normalized], axis=0)


def _normalize(features: tf.Tensor, layer: keras.layers.BatchNormalization, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    return tf.nn.batch_normalization(tf.cast(features, tf.float32), mean, variance, layer.beta, layer.gamma, layer.epsilon)


def _infer(layers: Sequence[keras.Layer], features: tf.Tensor) -> tf.Tensor:
    for layer in layers:
        features = layer(features, training=False)
    return features


def _infer_in_batches(infer: Callable[[tf.Tensor], tf.Tensor], images: NDArray[np.uint8]) -> tf.Tensor:
    starts = range(0, len(images), IMAGES_PER_EVALUATION_BATCH)
    return tf.concat([infer(tf.constant(images[start : start + IMAGES_PER_EVALUATION_BATCH])) for start in starts], axis=0)


def _score(name: str, labels: tf.Tensor, logits: tf.Tensor) -> dict[str, tf.Tensor]:
    targets = tf.cast(labels, tf.int32)
    correct, count = tf.cast(_count_correct(targets, logits), tf.float64), tf.cast(tf.size(targets), tf.float64)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
    return {name.format("loss"): loss, name.format("accuracy"): correct / count}


def _count_correct(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == targets, tf.int32))
