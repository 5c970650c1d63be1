"""The trained networks: their predictions, and the layers that they are made of."""

import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.training import quiet_tensorflow  # noqa: F401 # isort: skip - before TensorFlow
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.images.arrays import Examples
from pipeline.training import settings
from pipeline.training.config import TrialConfig
from pipeline.training.inference import predict
from pipeline.training.network import build_model

LAYER_COLUMNS = ["arm", "layer", "output", "trained", "moving"]

Trials = Mapping[tuple[str, int], tuple[TrialConfig, Path]]  # configuration and weights, by arm and seed


def predict_trials(trials: Trials, examples: Examples) -> dict[tuple[str, int], NDArray[np.float32]]:
    """Return the class probabilities of each trial's network, float32 `(n, classes)`."""
    settings.compute_deterministically()
    predictions = {}
    for key, (config, weights) in trials.items():
        model = build_model(config, config.seed, examples.image_shape, len(examples.classes))
        model.load_weights(weights)
        predictions[key] = predict(model, examples.images)
    return predictions


def list_layers(configs: Mapping[str, TrialConfig], examples: Examples) -> pd.DataFrame:
    """Build each arm's network and list its layers, from image to class probabilities.

    Returns:
        One row per arm and layer: `arm`; `layer`, the name of the Keras class in words; `output`, its shape without the batch
        axis; `trained` and `moving`, the numbers of values that training does and does not adjust by gradients.
    """
    rows = []
    for arm, config in configs.items():
        for layer in build_model(config, config.seed, examples.image_shape, len(examples.classes)).layers:
            trained, moving = (sum(int(np.prod(weight.shape)) for weight in weights)
                               for weights in (layer.trainable_weights, layer.non_trainable_weights))  # fmt: skip
            rows.append([arm, name_layer(type(layer).__name__), " × ".join(map(str, layer.output.shape[1:])), trained, moving])
    return pd.DataFrame(rows, columns=LAYER_COLUMNS)


def name_layer(keras_class: str) -> str:
    """Return the name of a Keras class in words: `Batch normalization` for BatchNormalization, `ReLU` for ReLU."""
    first, *words = re.split(r"(?<=[a-z])(?=[A-Z][a-z])", keras_class)
    return " ".join([first, *(word if word == "ReLU" else word[0].lower() + word[1:] for word in words)])
