"""What Batch Normalization costs at inference: nothing, once it is folded into the Dense layer beside it."""

from collections.abc import Iterable

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import PipelineError

Array = NDArray[np.float64]


def fold_batch_normalization(model: keras.Sequential) -> keras.Sequential:
    """Build the network without Batch Normalization that gives the same outputs as `model` does in inference mode.

    There, Batch Normalization is y = s·x + t for each unit, with s = γ/√(σ² + ε) and t = β − s·μ of the moving averages
    (Ioffe & Szegedy 2015, algorithm 2, line 11). Before a Dense layer (W, b) it becomes part of that layer,
    W′ = diag(s)·W and b′ = b + t·W; after a linear one, W′ = W·diag(s) and b′ = s·b + t. Dropout between the two is
    the identity in inference mode. Computed in float64 and stored in float32; `model` is not touched.

    Raises:
        PipelineError: a Batch Normalization has no Dense layer on either side to be folded into.
    """
    kept = [layer for layer in model.layers if not isinstance(layer, keras.layers.BatchNormalization)]
    weights = {layer.name: layer.get_weights() for layer in kept}
    for index, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            _fold(layer, model.layers[:index], model.layers[index + 1 :], weights)
    image = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name=model.inputs[0].name)
    folded = keras.Sequential([image, *(type(layer).from_config(layer.get_config()) for layer in kept)], name=model.name)
    for layer in folded.layers:
        layer.set_weights(weights[layer.name])
    return folded


def _fold(
    layer: keras.layers.BatchNormalization,
    before: list[keras.Layer],
    after: list[keras.Layer],
    weights: dict[str, list[Array]],
) -> None:
    scale, shift = _scale_and_shift(layer)
    if (dense := _first_dense(after)) is not None:
        kernel, bias = (np.asarray(values, np.float64) for values in weights[dense.name])
        weights[dense.name] = [scale[:, None] * kernel, bias + shift @ kernel]
    elif (dense := _first_dense(reversed(before))) is not None and dense.activation is keras.activations.linear:
        kernel, bias = (np.asarray(values, np.float64) for values in weights[dense.name])
        weights[dense.name] = [kernel * scale, bias * scale + shift]
    else:
        raise PipelineError(f"{layer.name}: cannot be folded; it needs a Dense layer after it, or a linear one before it")


def _scale_and_shift(layer: keras.layers.BatchNormalization) -> tuple[Array, Array]:
    gamma, beta, mean, variance = (np.asarray(values, np.float64) for values in layer.get_weights())
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return scale, beta - scale * mean


def _first_dense(layers: Iterable[keras.Layer]) -> keras.layers.Dense | None:
    nearest = next((layer for layer in layers if not isinstance(layer, keras.layers.Dropout)), None)
    return nearest if isinstance(nearest, keras.layers.Dense) else None
