"""This project's trial, and the floor below its step: the matrix products alone, and the optimizer alone."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import tensorflow as tf

import pipeline.training.quiet_tensorflow  # noqa: F401  # first
from benchmarks.contenders.work import ADAM, BATCH_NORM, CLASSES, HIDDEN_UNITS, Contender, Work, serve
from pipeline.images.arrays import Examples
from pipeline.training import settings
from pipeline.training.config import TrialConfig
from pipeline.training.metrics import build_evaluation
from pipeline.training.network import build_model
from pipeline.training.optimizer import build_optimizer
from pipeline.training.steps import build_train_steps, train_epoch
from pipeline.trials.parameters import load_parameters


def build(work: Work) -> Contender:
    """Build what `run_trial` builds, and train in the same way."""
    settings.compute_deterministically()
    config = config_of(work)
    model = build_model(config, config.seed, (32, 32, 3), CLASSES)
    train_steps, evaluate = build_train_steps(model, build_optimizer(config, len(work.labels))), build_evaluation(model)
    examples = Examples(work.images, work.labels, tuple(map(str, range(CLASSES))))
    ten_thousand = examples.first(10_000)

    products, optimizer_pass = _build_products(work), _build_optimizer_pass(config)
    steps = tf.constant(work.images_per_block // work.batch_size)
    return (lambda order: order), {
        "train": lambda order: train_epoch(train_steps, examples, order, work.batch_size)["loss"],
        "evaluate": lambda _: evaluate(ten_thousand, ten_thousand, work.batch_size)["val_loss"],
        "products": lambda _: float(products(steps)),
        "optimizer": lambda _: float(optimizer_pass(steps)),
    }


def config_of(work: Work) -> TrialConfig:
    """Describe the work as a trial. What the other contenders are told too is fixed here, whatever params.yaml says."""
    fields = {
        "hidden_units": list(HIDDEN_UNITS),
        "normalization": work.normalization,
        "normalization_position": "after_activation",
        "batch_norm_momentum": BATCH_NORM[0],
        "batch_norm_epsilon": BATCH_NORM[1],
        "dropout": 0.0,
        "optimizer": "adam",
        "learning_rate": ADAM[0],
        "batch_size": work.batch_size,
        "precision": work.precision,
    }
    return TrialConfig.model_validate({**load_parameters().trial.model_dump(), **fields, "seed": 0})


def _build_products(work: Work) -> Callable[[tf.Tensor], tf.Tensor]:
    """Multiply what a training step multiplies: forward, weight gradients, and input gradients of all layers but the first."""
    random = np.random.default_rng(0)
    sizes = [32 * 32 * 3, *HIDDEN_UNITS, CLASSES]
    features = [tf.constant(random.normal(size=(work.batch_size, size)), tf.float32) for size in sizes]
    kernels = [tf.Variable(random.normal(size=shape), dtype=tf.float32) for shape in pairwise(sizes)]

    @tf.function
    def products(steps: tf.Tensor) -> tf.Tensor:
        used = tf.constant(0.0)  # TensorFlow would not compute a product whose result is not used
        for _ in tf.range(steps):
            for index, kernel in enumerate(kernels):
                used += tf.matmul(features[index], kernel)[0, 0]
                used += tf.matmul(features[index], features[index + 1], transpose_a=True)[0, 0]
                if index > 0:
                    used += tf.matmul(features[index + 1], kernel, transpose_b=True)[0, 0]
        return used

    return products  # type: ignore[no-any-return]


def _build_optimizer_pass(config: TrialConfig) -> Callable[[tf.Tensor], tf.Tensor]:
    variables = build_model(config, config.seed, (32, 32, 3), CLASSES).trainable_variables
    optimizer = build_optimizer(config, 1)
    optimizer.build(variables)
    random = np.random.default_rng(0)
    gradients = [tf.constant(random.normal(size=variable.shape), tf.float32) for variable in variables]

    @tf.function
    def passes(steps: tf.Tensor) -> tf.Tensor:
        for _ in tf.range(steps):
            optimizer.apply(gradients, variables)
        return variables[-1][0]

    return passes  # type: ignore[no-any-return]


if __name__ == "__main__":
    serve(build)
