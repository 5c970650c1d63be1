"""The networks under study, their normalisers, and the parameters that shape them.

Keras is imported when a network is built, so that parameters can be checked without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from pipeline.common.parameters import StrictModel
from pipeline.training.seeds import derived_seed

if TYPE_CHECKING:
    import keras

MAXIMUM_WEIGHTS = 10**9
LARGEST_INPUT = 32 * 32 * 3  # values of an image


def _batch_normalization(config: NetworkConfig, name: str) -> keras.Layer:
    import keras

    return keras.layers.BatchNormalization(
        momentum=config.batch_norm_momentum, epsilon=config.batch_norm_epsilon, dtype=config.dtype_policy, name=name
    )


def _layer_normalization(config: NetworkConfig, name: str) -> keras.Layer:
    import keras

    return keras.layers.LayerNormalization(dtype=config.dtype_policy, name=name)


# A new normaliser is one function above and one line here.
NORMALIZATIONS: dict[str, Callable[[NetworkConfig, str], keras.Layer] | None] = {
    "none": None,
    "batch": _batch_normalization,
    "layer": _layer_normalization,
}


def _mlp(config: NetworkConfig, seed: int) -> list[keras.Layer]:
    """Return the notebook's multilayer perceptron: Dense layers of `hidden_units`."""
    import keras

    layers: list[keras.Layer] = [keras.layers.Flatten(dtype=config.dtype_policy, name="flatten")]
    for index, units in enumerate(config.hidden_units, start=1):
        initializer = kernel_initializer(config, seed, index)
        dense = keras.layers.Dense(units, kernel_initializer=initializer, dtype=config.dtype_policy, name=f"dense_{index}")
        layers += hidden_block(config, seed, index, dense)
    return layers


# A new network is one function above and one line here: the layers between scaled images and logits, flat at the end.
NETWORKS: dict[str, Callable[[NetworkConfig, int], list[keras.Layer]]] = {
    "mlp": _mlp,
}

# (scale, mode, distribution) of keras.initializers.VarianceScaling, under which Keras defines these names.
KERNEL_INITIALIZERS = {
    "glorot_uniform": (1.0, "fan_avg", "uniform"),
    "glorot_normal": (1.0, "fan_avg", "truncated_normal"),
    "he_uniform": (2.0, "fan_in", "uniform"),
    "he_normal": (2.0, "fan_in", "truncated_normal"),
}


def _one_of(names: Sequence[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"should be one of {', '.join(names)}")
        return name

    return AfterValidator(check)


class NetworkConfig(StrictModel):
    """What shapes the network. The notebook's values are in params.yaml."""

    network: Annotated[str, _one_of([*NETWORKS])]
    hidden_units: list[Annotated[int, Field(gt=0, le=65536)]] = Field(max_length=64)
    normalization: Annotated[str, _one_of([*NORMALIZATIONS])]
    normalization_position: Literal["after_activation", "before_activation"]
    batch_norm_momentum: float = Field(ge=0, lt=1)
    batch_norm_epsilon: float = Field(gt=0, le=1)
    dropout: float = Field(ge=0, lt=1)
    kernel_initializer: Annotated[str, _one_of([*KERNEL_INITIALIZERS])]
    kernel_gain: float = Field(gt=0, le=1e6)
    precision: Literal["float32", "bfloat16"]

    @property
    def dtype_policy(self) -> str:
        """Keras's name for the precision. With bfloat16, weights, statistics and logits stay float32."""
        return "mixed_bfloat16" if self.precision == "bfloat16" else "float32"

    @field_validator("hidden_units")
    @classmethod
    def _check_size(cls, hidden_units: list[int]) -> list[int]:
        weights = sum((inputs + 1) * units for inputs, units in pairwise([LARGEST_INPUT, *hidden_units]))
        if weights > MAXIMUM_WEIGHTS:
            raise ValueError(f"gives a network {weights:,} weights, of at most {MAXIMUM_WEIGHTS:,}; make it smaller")
        return hidden_units


def build_model(config: NetworkConfig, seed: int, image_shape: Sequence[int], classes: int) -> keras.Sequential:
    """Build the network: uint8 images `(n, *image_shape)` in, float32 class probabilities `(n, classes)` out.

    The same seed gives the same kernels whatever the normalization or dropout.
    """
    import keras

    initializer = kernel_initializer(config, seed, 0)
    return keras.Sequential(
        [
            keras.Input(tuple(image_shape), dtype="uint8", name="image"),
            keras.layers.Rescaling(1 / 255, dtype=config.dtype_policy, name="rescaling"),
            *NETWORKS[config.network](config, seed),
            keras.layers.Dense(classes, kernel_initializer=initializer, dtype="float32", name="logits"),
            keras.layers.Softmax(dtype="float32", name="probabilities"),
        ],
        name=config.network,
    )


def hidden_block(config: NetworkConfig, seed: int, index: int, layer: keras.Layer) -> list[keras.Layer]:
    """Return a Dense or convolutional layer with what follows it: ReLU, the normaliser at its position, dropout."""
    import keras

    block: list[keras.Layer] = [layer, keras.layers.ReLU(dtype=config.dtype_policy, name=f"relu_{index}")]
    normalization = NORMALIZATIONS[config.normalization]
    if normalization is not None:
        position = 2 if config.normalization_position == "after_activation" else 1
        block.insert(position, normalization(config, f"normalization_{index}"))
    if config.dropout > 0:
        dropout_seed = derived_seed(seed, "dropout", index)
        block.append(keras.layers.Dropout(config.dropout, seed=dropout_seed, dtype=config.dtype_policy, name=f"dropout_{index}"))
    return block


def kernel_initializer(config: NetworkConfig, seed: int, index: int) -> keras.initializers.Initializer:
    """Return the initializer of a layer's kernel, scaled by the kernel gain. Index 0 is the layer of the logits."""
    import keras

    scale, mode, distribution = KERNEL_INITIALIZERS[config.kernel_initializer]
    return keras.initializers.VarianceScaling(scale * config.kernel_gain**2, mode, distribution, seed=derived_seed(seed, "kernel", index))
