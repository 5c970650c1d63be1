"""The multilayer perceptron under study and the parameters that shape it.

Keras is imported when a model is built, so that parameters can be checked without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.cifar10 import CLASSES, IMAGE_SHAPE
from pipeline.seeds import derived_seed

if TYPE_CHECKING:
    import keras


def _batch_normalization(config: ModelConfig, name: str) -> keras.Layer:
    import keras

    return keras.layers.BatchNormalization(
        momentum=config.batch_norm_momentum, epsilon=config.batch_norm_epsilon, dtype=config.dtype_policy, name=name
    )


def _layer_normalization(config: ModelConfig, name: str) -> keras.Layer:
    import keras

    return keras.layers.LayerNormalization(dtype=config.dtype_policy, name=name)


# A new normaliser is one function and one line here.
NORMALIZATIONS: dict[str, Callable[[ModelConfig, str], keras.Layer] | None] = {
    "none": None,
    "batch": _batch_normalization,
    "layer": _layer_normalization,
}

# (scale, mode, distribution) of keras.initializers.VarianceScaling, under which Keras defines these names.
KERNEL_INITIALIZERS = {
    "glorot_uniform": (1.0, "fan_avg", "uniform"),
    "glorot_normal": (1.0, "fan_avg", "truncated_normal"),
    "he_uniform": (2.0, "fan_in", "uniform"),
    "he_normal": (2.0, "fan_in", "truncated_normal"),
}


def _one_of(names: dict[str, object]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"should be one of {', '.join(names)}")
        return name

    return AfterValidator(check)


class ModelConfig(BaseModel):
    """What shapes the network; the notebook's values are in params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    hidden_units: list[Annotated[int, Field(gt=0, le=65536)]] = Field(max_length=64)
    normalization: Annotated[str, _one_of({**NORMALIZATIONS})]
    normalization_position: Literal["after_activation", "before_activation"]
    batch_norm_momentum: float = Field(ge=0, lt=1)
    batch_norm_epsilon: float = Field(gt=0, le=1)
    dropout: float = Field(ge=0, lt=1)
    kernel_initializer: Annotated[str, _one_of({**KERNEL_INITIALIZERS})]
    kernel_gain: float = Field(gt=0, le=1e6)
    precision: Literal["float32", "bfloat16"]

    @property
    def dtype_policy(self) -> str:
        """Keras's name for the precision; with bfloat16, weights, statistics and logits stay float32."""
        return "mixed_bfloat16" if self.precision == "bfloat16" else "float32"


def build_model(config: ModelConfig, seed: int) -> keras.Sequential:
    """Build the network: uint8 images `(n, 32, 32, 3)` in, float32 class probabilities `(n, 10)` out.

    The same seed gives the same Dense kernels whatever the normalization or dropout.
    """
    import keras

    layers: list[keras.Layer] = [
        keras.Input(IMAGE_SHAPE, dtype="uint8", name="image"),
        keras.layers.Rescaling(1 / 255, dtype=config.dtype_policy, name="rescaling"),
        keras.layers.Flatten(dtype=config.dtype_policy, name="flatten"),
    ]
    for index, units in enumerate(config.hidden_units, start=1):
        layers += _hidden_block(config, seed, index, units)
    layers.append(_dense(config, seed, 0, len(CLASSES), "logits", dtype="float32"))
    layers.append(keras.layers.Softmax(dtype="float32", name="probabilities"))
    return keras.Sequential(layers, name="mlp")


def _hidden_block(config: ModelConfig, seed: int, index: int, units: int) -> list[keras.Layer]:
    import keras

    block: list[keras.Layer] = [keras.layers.ReLU(dtype=config.dtype_policy, name=f"relu_{index}")]
    normalization = NORMALIZATIONS[config.normalization]
    if normalization is not None:
        position = 1 if config.normalization_position == "after_activation" else 0
        block.insert(position, normalization(config, f"normalization_{index}"))
    if config.dropout > 0:
        block.append(
            keras.layers.Dropout(
                config.dropout, seed=derived_seed(seed, "dropout", index), dtype=config.dtype_policy, name=f"dropout_{index}"
            )
        )
    return [_dense(config, seed, index, units, f"dense_{index}", config.dtype_policy), *block]


def _dense(config: ModelConfig, seed: int, index: int, units: int, name: str, dtype: str) -> keras.Layer:
    import keras

    scale, mode, distribution = KERNEL_INITIALIZERS[config.kernel_initializer]
    initializer = keras.initializers.VarianceScaling(
        scale * config.kernel_gain**2, mode, distribution, seed=derived_seed(seed, "kernel", index)
    )
    return keras.layers.Dense(units, kernel_initializer=initializer, dtype=dtype, name=name)
