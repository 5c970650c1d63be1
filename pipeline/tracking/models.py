"""Models as MLflow logs them; runs in a process that computes with TensorFlow."""

from pathlib import Path
from typing import Any

import mlflow
import mlflow.tensorflow
import numpy as np
from mlflow import MlflowClient
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from pipeline.images.cifar10 import CLASSES, IMAGE_SHAPE
from pipeline.tracking.store import patiently
from pipeline.training.config import TrialConfig
from pipeline.training.environment import COMPUTING_PACKAGES, computing_environment
from pipeline.training.network import build_model
from pipeline.training.quiet_tensorflow import nothing_on_stderr

IMAGES = TensorSpec(np.dtype("uint8"), (-1, *IMAGE_SHAPE))
PROBABILITIES = TensorSpec(np.dtype("float32"), (-1, len(CLASSES)), "probabilities")


def log_models(tracking_uri: str, trials: dict[str, tuple[TrialConfig, Path]], image_shape: tuple[int, ...], classes: int) -> None:
    """Log a servable Keras model for each run, given with the trial's configuration and weights."""
    signature = ModelSignature(Schema([TensorSpec(IMAGES.type, IMAGES.shape, "image")]), Schema([PROBABILITIES]))
    for run_id, (config, weights) in trials.items():
        model = build_model(config, config.seed, image_shape, classes)
        model.load_weights(weights)
        example = np.zeros((1, *IMAGE_SHAPE), np.uint8)
        log_model(tracking_uri, run_id, "model", mlflow.tensorflow, model=model, signature=signature, input_example=example)


def log_model(tracking_uri: str, run_id: str, name: str, flavor: Any, **described: Any) -> Any:  # noqa: ANN401 - MLflow is not typed
    """Log a model to a run, as `flavor` saves what is `described`; give MLflow's information on it."""
    mlflow.set_tracking_uri(tracking_uri)
    # A model goes to the active experiment.
    mlflow.set_experiment(experiment_id=MlflowClient(tracking_uri).get_run(run_id).info.experiment_id)
    with nothing_on_stderr():  # MLflow tries the model on its example, and TensorFlow comments on how
        return patiently(
            Model.log, artifact_path=None, name=name, flavor=flavor, run_id=run_id, pip_requirements=_requirements(), **described
        )


def _requirements() -> list[str]:
    """What has to be installed where a model is used, as pip has it."""
    versions = computing_environment()
    return [f"{name}=={versions[name]}" for name in COMPUTING_PACKAGES if name in versions]
