"""Times training steps and inference of both arms, interleaved, in one process."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from claims.probes.arms import ARMS
from claims.probes.parameters import Timing
from pipeline.images.arrays import Examples
from pipeline.serving.folding import fold_batch_normalization
from pipeline.training.config import TrialConfig
from pipeline.training.network import build_model
from pipeline.training.optimizer import build_optimizer
from pipeline.training.seeds import data_order
from pipeline.training.steps import IMAGES_PER_CALL, build_train_steps
from pipeline.trials.notebook import BASELINE, BATCH_NORM

FOLDED = "batch_norm_folded"
KINDS = 3  # of work
SECONDS_BETWEEN_LINES = 15

# Works on batches, uint8 images `(steps, batch, height, width, channels)` and uint8 labels `(steps, batch)`, one step after the other.
Steps = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]
Batches = Iterator[tuple[tf.Tensor, tf.Tensor]]


def measure_times(configs: Mapping[str, TrialConfig], timing: Timing, train: Examples) -> pd.DataFrame:
    """Time the networks of both arms, all in this process, on the training images.

    A block has two legs of each arm, in mirrored order (without, with, with, without Batch Normalization), so that a steady
    slow-down or speed-up costs both the same. Every leg is as many steps, on batches of the configuration's size; the arms see
    the same batches. One leg of each arm warms up before the first block.

    Returns:
        One row per `what`, `arm` and `block`, with the `milliseconds` of one step, a mean over both legs. `what` is
        `training_step`; `forward_and_backward`, the same without the optimizer; or `inference`, of one batch of the same
        size, with the networks trained until then, and for `batch_norm_folded` folded too.
    """
    rows, done, total = [], 0, KINDS * timing.blocks
    batches = partial(gather_leg, train, configs[BASELINE], timing.steps_per_leg)
    began = printed = time.monotonic()
    for what, work in prepare(configs, train):
        for block, times in enumerate(time_blocks(work, batches, timing.blocks)):
            rows += [{"what": what, "arm": arm, "block": block, "milliseconds": value} for arm, value in times.items()]
            done += 1
            now = time.monotonic()
            if now - printed >= SECONDS_BETWEEN_LINES:  # a line now and then: a bar that is redrawn would disturb what is timed
                printed = now
                print(f"{done}/{total} blocks timed, about {(now - began) * (total - done) / done:.0f} s left", flush=True)
    return pd.DataFrame(rows)


def prepare(configs: Mapping[str, TrialConfig], train: Examples) -> Iterator[tuple[str, dict[str, Steps]]]:
    """Yield each kind of work and, by arm, the function that does it. Each kind is built after the one before has been done."""
    shape = train.image_shape, len(train.classes)
    models = {arm: build_model(configs[arm], configs[arm].seed, *shape) for arm in ARMS}
    optimizers = {arm: build_optimizer(configs[arm], len(train.labels)) for arm in ARMS}
    yield "training_step", {arm: build_train_steps(model, optimizers[arm]) for arm, model in models.items()}
    yield "forward_and_backward", {arm: build_gradient_steps(model) for arm, model in models.items()}
    models[FOLDED] = fold_batch_normalization(models[BATCH_NORM])
    yield "inference", {arm: build_inference_steps(model) for arm, model in models.items()}


def time_blocks(work: Mapping[str, Steps], batches: Callable[[int], Batches], blocks: int) -> Iterator[dict[str, float]]:
    """Do the work of all arms in blocks and yield, for each block and arm, the milliseconds of one step.

    `batches` gives those of a leg. An arm's legs are numbered from 0, its warm-up.
    """
    for steps in work.values():
        _time_leg(steps, batches(0))
    for block in range(blocks):
        forth = {arm: _time_leg(work[arm], batches(2 * block + 1)) for arm in work}
        back = {arm: _time_leg(work[arm], batches(2 * block + 2)) for arm in reversed([*work])}
        yield {arm: (forth[arm] + back[arm]) / 2 for arm in work}


def _time_leg(steps: Steps, batches: Batches) -> float:
    """Return the milliseconds of one step. Gathering the batches is not timed."""
    seconds, count = 0.0, 0
    for images, labels in batches:
        began = time.perf_counter()
        for result in steps(images, labels):
            result.numpy()  # the work is done when its result is there
        seconds += time.perf_counter() - began
        count += len(images)
    return 1000 * seconds / count


def gather_leg(train: Examples, config: TrialConfig, steps: int, leg: int) -> Batches:
    """Yield a leg's batches, as many at a time as a trial has in one call, in the order of its first epoch over and over."""
    order = data_order(config.seed, 1, len(train.labels))
    positions = np.arange(leg * steps * config.batch_size, (leg + 1) * steps * config.batch_size)
    indices = order.take(positions, mode="wrap").reshape(steps, config.batch_size)
    steps_per_call = max(1, IMAGES_PER_CALL // config.batch_size)
    for start in range(0, steps, steps_per_call):
        of_call = indices[start : start + steps_per_call]
        yield tf.constant(train.images[of_call]), tf.constant(train.labels[of_call])


def build_gradient_steps(model: keras.Sequential) -> Steps:
    """Compile a training step's loss and gradients without the optimizer: weights stay, moving averages move as in training.

    Each call gives the sum of the losses and a sum over entries of the gradients.
    """
    network = keras.Model(model.inputs, model.get_layer("logits").output)

    def of_step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(labels, tf.int32), network(images, training=True))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, network.trainable_variables)
        # One entry of each gradient goes into the result. A control dependency would not do: TensorFlow's graph optimizer
        # drops what only such dependencies ask for, and then a step takes as long as its forward pass.
        return tf.stack([tf.reduce_sum(losses), tf.add_n([tf.reshape(gradient, [-1])[0] for gradient in gradients])])

    return _compile_loop(of_step, tf.zeros(2), model)


def build_inference_steps(model: keras.Sequential) -> Steps:
    """Compile inference. Each call gives the sum of the probabilities of what is predicted."""

    def of_step(images: tf.Tensor, _labels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.reduce_max(model(images, training=False), axis=-1))

    return _compile_loop(of_step, tf.zeros(()), model)


def _compile_loop(of_step: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], zero: tf.Tensor, model: keras.Sequential) -> Steps:
    """Compile a sum over the batches of a call, in one loop as training has it."""
    shape = (None, None, *model.input_shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8), tf.TensorSpec((None, None), tf.uint8)])
    def steps(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        total = zero
        for step in tf.range(tf.shape(images)[0]):
            total += of_step(images[step], labels[step])
        return (total,)

    return steps  # type: ignore[no-any-return]
