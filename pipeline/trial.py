"""One trial: train one network and measure it after every epoch."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

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
    `val_loss_recalibrated` and `val_accuracy_recalibrated`, with population statistics in place of moving averages.

    Training stops after an epoch in which a loss is not finite: nothing can be learned from there on.
    """
    keras.utils.clear_session()
    model = build_model(config, config.seed)
    train_steps, evaluate = _build_train_steps(model, build_optimizer(config)), _build_evaluation(model)
    for epoch in range(1, config.epochs + 1):
        metrics = _train_epoch(train_steps, train, data_order(config.seed, epoch, len(train.labels)), config.batch_size)
        metrics |= evaluate(train, validation)
        on_epoch({"epoch": epoch, **metrics})
        if not all(map(math.isfinite, metrics.values())):
            break
    return model


def predict(model: keras.Sequential, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Class probabilities, float32 `(n, 10)`, in inference mode for uint8 images `(n, 32, 32, 3)`."""
    probabilities: NDArray[np.float32] = _infer_in_batches(partial(_infer, model.layers), images).numpy()
    return probabilities


TrainSteps = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def _build_train_steps(model: keras.Sequential, optimizer: keras.optimizers.Optimizer) -> TrainSteps:
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


Evaluation = Callable[[Examples, Examples], EpochMetrics]


def _build_evaluation(model: keras.Sequential) -> Evaluation:
    # Nothing normalises the first Dense layer's input, and it holds nine tenths of the work: its output is computed once
    # for each image and serves the moving averages and the recalibrated statistics alike.
    first_dense = next(index for index, layer in enumerate(model.layers) if isinstance(layer, keras.layers.Dense))
    stem, rest = model.layers[: first_dense + 1], model.layers[first_dense + 1 : -1]
    infer_stem = tf.function(partial(_infer, stem), reduce_retracing=True)

    @tf.function
    def measure(train: tf.Tensor, train_labels: tf.Tensor, validation: tf.Tensor, validation_labels: tf.Tensor) -> dict[str, tf.Tensor]:
        metrics = {
            **_score("val_{}", validation_labels, _infer(rest, validation)),
            **_score("train_eval_{}", train_labels, _infer(rest, train)),
        }
        if any(isinstance(layer, keras.layers.BatchNormalization) for layer in rest):
            metrics |= _score("val_{}_recalibrated", validation_labels, _infer_recalibrated(rest, validation, train))
        return metrics

    def evaluate(train: Examples, validation: Examples) -> EpochMetrics:
        train_features = _infer_in_batches(infer_stem, train.images[:TRAIN_EVAL_EXAMPLES])
        validation_features = _infer_in_batches(infer_stem, validation.images)
        metrics = measure(train_features, train.labels[:TRAIN_EVAL_EXAMPLES], validation_features, validation.labels)
        return {name: float(value) for name, value in metrics.items()}

    return evaluate


def _infer_recalibrated(layers: Sequence[keras.Layer], features: tf.Tensor, train_features: tf.Tensor) -> tf.Tensor:
    """Infer with each moving average replaced by the mean and (biased) variance over all of `train_features`."""
    for layer in layers:
        apply = partial(layer, training=False)
        if isinstance(layer, keras.layers.BatchNormalization):
            features, train_features = tf.cast(features, tf.float32), tf.cast(train_features, tf.float32)
            mean, variance = tf.nn.moments(train_features, axes=[0])
            apply = partial(
                tf.nn.batch_normalization,
                mean=mean,
                variance=variance,
                offset=layer.beta,
                scale=layer.gamma,
                variance_epsilon=layer.epsilon,
            )
        features, train_features = apply(features), apply(train_features)
    return features


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
