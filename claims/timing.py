"""DVC stage `timing`: milliseconds of a training step and of an inference, with Batch Normalization and without.

The one stage of this laboratory whose output differs from run to run. It waits until it is alone with the trials' lock.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from claims.studies.parameters import RESULTS, TIMED, Timing, load_claims
from pipeline.common.command import run
from pipeline.common.files import replacing
from pipeline.images.arrays import PROCESSED, Examples, load_examples
from pipeline.images.cifar10 import IMAGE_SHAPE
from pipeline.training.config import TrialConfig
from pipeline.training.environment import write_environment
from pipeline.training.seeds import data_order
from pipeline.trials.notebook import BASELINE, BATCH_NORM
from pipeline.workers.local import call_in_worker
from pipeline.workers.lock import alone_with_trials

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    # Works on batches, uint8 images `(steps, batch, 32, 32, 3)` and uint8 labels `(steps, batch)`, one step after the other.
    Steps = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]
    Batches = Iterator[tuple[tf.Tensor, tf.Tensor]]

ARMS = (BASELINE, BATCH_NORM)
FOLDED = "batch_norm_folded"
OUTPUT = RESULTS / f"{TIMED}.csv"
KINDS = 3  # of work
SECONDS_BETWEEN_LINES = 15


def main() -> None:
    """Write reports/claims/timing.csv, and the environment that it holds for."""
    argparse.ArgumentParser(prog="python -m claims.timing", description=__doc__).parse_args()
    parameters = load_claims()
    configs = {arm: parameters.trials.trial_config(arm, {}, seed=0) for arm in ARMS}
    with alone_with_trials():
        table = call_in_worker(measure, configs, parameters.timing, PROCESSED.resolve())
    with replacing(OUTPUT) as temporary:
        table.to_csv(temporary, index=False)
    write_environment(RESULTS / "environment" / "timing.json")


def measure(configs: Mapping[str, TrialConfig], timing: Timing, processed: Path) -> pd.DataFrame:
    """Time the networks of both arms, all in this process, on the training images.

    A block has two legs of each arm, in mirrored order (without, with, with, without Batch Normalization), so that what slows
    down or speeds up evenly costs both the same. Every leg is as many steps, on batches of the configuration's size; the
    arms see the same batches. One leg of each arm warms up before the first block.

    Returns:
        One row per `what`, `arm` and `block`, with the `milliseconds` of one step, a mean over both legs. `what` is
        `training_step`; `forward_and_backward`, the same without the optimizer; or `inference`, of one batch of the same
        size, with the networks trained till then, and for `batch_norm_folded` folded too.

    Raises:
        PipelineError: the images are not there.
    """
    train, rows = load_examples("train", processed), []
    batches = partial(gather_leg, train, configs[BASELINE], timing.steps_per_leg)
    progress = _Progress(KINDS * timing.blocks)
    for what, work in prepare(configs, train):
        for block, times in enumerate(time_blocks(work, batches, timing.blocks)):
            rows += [{"what": what, "arm": arm, "block": block, "milliseconds": value} for arm, value in times.items()]
            progress.advance()
    return pd.DataFrame(rows)


def prepare(configs: Mapping[str, TrialConfig], train: Examples) -> Iterator[tuple[str, dict[str, Steps]]]:
    """Give each kind of work and, by arm, the function that does it; a kind is made ready after the one before has been done."""
    from pipeline.serving.folding import fold_batch_normalization
    from pipeline.training.network import build_model
    from pipeline.training.optimizer import build_optimizer
    from pipeline.training.steps import build_train_steps

    shape = train.image_shape, len(train.classes)
    models = {arm: build_model(configs[arm], configs[arm].seed, *shape) for arm in ARMS}
    yield (
        "training_step",
        {arm: build_train_steps(model, build_optimizer(configs[arm], len(train.labels))) for arm, model in models.items()},
    )
    yield "forward_and_backward", {arm: build_gradient_steps(model) for arm, model in models.items()}
    models[FOLDED] = fold_batch_normalization(models[BATCH_NORM])
    yield "inference", {arm: build_inference_steps(model) for arm, model in models.items()}


def time_blocks(work: Mapping[str, Steps], batches: Callable[[int], Batches], blocks: int) -> Iterator[dict[str, float]]:
    """Do the work of all arms in blocks and yield, for each block and arm, the milliseconds of one step.

    `batches` gives those of a leg; an arm's legs are numbered from 0, its warm-up.
    """
    for steps in work.values():
        _time_leg(steps, batches(0))
    for block in range(blocks):
        forth = {arm: _time_leg(work[arm], batches(2 * block + 1)) for arm in work}
        back = {arm: _time_leg(work[arm], batches(2 * block + 2)) for arm in reversed([*work])}
        yield {arm: (forth[arm] + back[arm]) / 2 for arm in work}


def gather_leg(train: Examples, config: TrialConfig, steps: int, leg: int) -> Batches:
    """Give a leg's batches, as many at a time as a trial has in one call, in the order of its first epoch over and over."""
    import tensorflow as tf

    from pipeline.training.steps import IMAGES_PER_CALL

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
    import keras
    import tensorflow as tf

    network = keras.Model(model.inputs, model.get_layer("logits").output)

    def of_step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(labels, tf.int32), network(images, training=True))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, network.trainable_variables)
        # One entry of each gradient goes into the result. A control dependency would not do: TensorFlow's optimizer of graphs
        # drops what nothing but such dependencies ask for, and then a step takes as long as its forward pass.
        return tf.stack([tf.reduce_sum(losses), tf.add_n([tf.reshape(gradient, [-1])[0] for gradient in gradients])])

    return _compile_loop(of_step, tf.zeros(2))


def build_inference_steps(model: keras.Sequential) -> Steps:
    """Compile inference; each call gives the sum of the probabilities of what is predicted."""
    import tensorflow as tf

    def of_step(images: tf.Tensor, _labels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.reduce_max(model(images, training=False), axis=-1))

    return _compile_loop(of_step, tf.zeros(()))


def _compile_loop(of_step: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], zero: tf.Tensor) -> Steps:
    """Compile a sum over the batches of a call, in one loop as training has it."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, None, *IMAGE_SHAPE), tf.uint8), tf.TensorSpec((None, None), tf.uint8)])
    def steps(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        total = zero
        for step in tf.range(tf.shape(images)[0]):
            total += of_step(images[step], labels[step])
        return (total,)

    return steps  # type: ignore[no-any-return]


def _time_leg(steps: Steps, batches: Batches) -> float:
    """Give the milliseconds of one step; that batches are gathered is not timed."""
    seconds, count = 0.0, 0
    for images, labels in batches:
        began = time.perf_counter()
        for result in steps(images, labels):
            result.numpy()  # the work is done when its result is there
        seconds += time.perf_counter() - began
        count += len(images)
    return 1000 * seconds / count


class _Progress:
    """Prints a line every so often, between blocks: a bar that is redrawn would disturb what is timed."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total
        self._began = self._printed = time.monotonic()

    def advance(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            seconds = (now - self._began) * (self._total - self._done) / self._done
            print(f"{self._done}/{self._total} blocks timed, about {seconds:.0f} s left", flush=True)


if __name__ == "__main__":
    run(main)
