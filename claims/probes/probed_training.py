"""Trains one arm as a trial does, and looks inside it on the way."""

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from claims.probes.discrepancy import measure_discrepancy
from claims.probes.network_probes import Probes
from claims.probes.parameters import Mechanisms
from claims.probes.working_principle import check_working_principle
from pipeline.images.arrays import Examples
from pipeline.training.config import TrialConfig
from pipeline.training.optimizer import build_optimizer
from pipeline.training.seeds import data_order
from pipeline.training.steps import build_train_steps

Row = dict[str, Any]


def probe_training(
    arm: str, model: keras.Sequential, config: TrialConfig, mechanisms: Mechanisms, train: Examples, validation: Examples
) -> dict[str, list[Row]]:
    """Train `model` as `config` says, and return the rows of the probes by table.

    Probed are the steps that `mechanisms` names and the end of each epoch; what concerns Batch Normalization alone, at
    the beginning and at the end, if the arm has it.
    """
    validation = validation.first(mechanisms.images)
    batch, mates = train.first(config.batch_size), train.images[config.batch_size : 2 * config.batch_size - 1]
    optimizer = build_optimizer(config, len(train.labels))
    probes = Probes(model, optimizer, config.optimizer, validation.images, batch)
    normalizes = any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    tables: dict[str, list[Row]] = defaultdict(list)
    began, last = time.monotonic(), config.total_epochs
    for step, epochs in train_by_updates(model, optimizer, config, train):
        if step in mechanisms.steps or epochs:
            for name, rows in probes.sample().items():
                tables[name] += [{"arm": arm, "step": step, **row} for row in rows]
        if normalizes and (step == 0 or epochs == last):
            rows = [row for size in mechanisms.batch_sizes for row in measure_discrepancy(model, validation, size)]
            tables["discrepancy"] += [{"step": step, **row} for row in rows]
        if epochs:
            left = f", about {(time.monotonic() - began) / epochs * (last - epochs):.0f} s left" if epochs < last else ""
            print(f"{arm}: {epochs}/{last} epochs probed{left}", flush=True)
    if normalizes:
        tables["working_principle"] += check_working_principle(model, batch, mates, validation.images)
    return dict(tables)


def train_by_updates(
    model: keras.Sequential, optimizer: keras.optimizers.Optimizer, config: TrialConfig, train: Examples
) -> Iterator[tuple[int, int | None]]:
    """Train as `pipeline.training.trial.run_trial` does, to the same weights, and stop before the first update and after each.

    Yields:
        How many updates were made and, where an epoch has just ended, how many epochs.
    """
    train_steps = build_train_steps(model, optimizer)
    train = train if config.training_images == "all" else train.first(config.training_images)
    step = 0
    yield step, None
    for epoch, batch_size in enumerate(config.epoch_batch_sizes, start=1):
        order = data_order(config.seed, epoch, len(train.labels))
        for start in range(0, len(order), batch_size):
            indices = order[None, start : start + batch_size]
            train_steps(tf.constant(train.images[indices]), tf.constant(train.labels[indices]))
            step += 1
            yield step, epoch if start + batch_size >= len(order) else None
