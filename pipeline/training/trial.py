"""One trial: train one network and measure it after every epoch."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras

from pipeline.images.arrays import Examples
from pipeline.training.config import TrialConfig
from pipeline.training.metrics import build_evaluation
from pipeline.training.network import build_model
from pipeline.training.optimizer import build_optimizer
from pipeline.training.seeds import data_order
from pipeline.training.steps import FurtherAverages, build_train_steps, train_epoch


def run_trial(config: TrialConfig, train: Examples, validation: Examples, on_epoch: Callable[[dict[str, float]], None]) -> keras.Sequential:
    """Train as `config` says and return the trained model.

    `on_epoch` gets `epoch`, from 1, and the metrics of each epoch that `metric_names` lists. Training stops after an epoch in
    which a metric is not finite: nothing can be learned from there on.
    """
    keras.utils.clear_session()
    train = train if config.training_images == "all" else train.first(config.training_images)
    model = build_model(config, config.seed, train.image_shape, len(train.classes))
    further = [FurtherAverages(model, momentum) for momentum in config.further_momentums]
    train_steps = build_train_steps(model, build_optimizer(config, len(train.labels)), further)
    evaluate = build_evaluation(model, further, config.recalibration_images)
    for epoch, batch_size in enumerate(config.epoch_batch_sizes, start=1):
        metrics = train_epoch(train_steps, train, data_order(config.seed, epoch, len(train.labels)), batch_size)
        metrics |= evaluate(train, validation, batch_size)
        on_epoch({"epoch": epoch, **metrics})
        if not all(map(math.isfinite, metrics.values())):
            break
    return model
