"""What can be known without training: parameter counts, steps per epoch, and how slowly moving averages move."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from pipeline.images.cifar10 import CLASSES, IMAGE_SHAPE
from pipeline.training.network import NetworkConfig

# Trained and moving values for each unit: γ and β, running mean and running variance.
NORMALIZATION_VALUES = {"batch": (2, 2), "layer": (2, 0)}


@dataclass(frozen=True)
class Layer:
    """One layer: the shape of its output without the batch axis, and how many values it trains and carries along."""

    name: str
    shape: tuple[int, ...]
    trained: int = 0
    moving: int = 0


def list_layers(config: NetworkConfig) -> list[Layer]:
    """List the layers that `pipeline.training.network.build_model` makes, from image to class probabilities."""
    flat = math.prod(IMAGE_SHAPE)
    layers = [Layer("Rescaling 1/255", IMAGE_SHAPE), Layer("Flatten", (flat,))]
    for inputs, units in pairwise([flat, *config.hidden_units]):
        layers += _hidden_block(config, inputs, units)
    layers.append(_dense([flat, *config.hidden_units][-1], len(CLASSES)))
    return [*layers, Layer("Softmax", (len(CLASSES),))]


def _hidden_block(config: NetworkConfig, inputs: int, units: int) -> Iterator[Layer]:
    activation = [Layer("ReLU", (units,))]
    normalization = []
    if config.normalization != "none":
        trained, moving = NORMALIZATION_VALUES[config.normalization]
        normalization = [Layer(f"{config.normalization.title()} normalization", (units,), trained * units, moving * units)]
    yield _dense(inputs, units)
    yield from activation + normalization if config.normalization_position == "after_activation" else normalization + activation
    if config.dropout > 0:
        yield Layer(f"Dropout {config.dropout:g}", (units,))


def _dense(inputs: int, units: int) -> Layer:
    return Layer("Dense", (units,), inputs * units + units)


def count_parameters(layers: list[Layer]) -> int:
    """Count all values, trained and moving, as Keras's `count_params` does."""
    return sum(layer.trained + layer.moving for layer in layers)


def updates_per_epoch(images: int, batch_size: int) -> int:
    """Count weight updates in an epoch; the last batch may be smaller, as in Keras."""
    return math.ceil(images / batch_size)


def initial_share(momentum: float, updates: int) -> float:
    """Share of a moving average's start value that is left after `updates`: momentum ** updates."""
    return float(momentum**updates)


def updates_until(momentum: float, share: float) -> int:
    """Count updates until the start value's share of a moving average is at most `share`: ⌈ln share / ln momentum⌉."""
    return math.ceil(math.log(share) / math.log(momentum)) if momentum > 0 else 1
