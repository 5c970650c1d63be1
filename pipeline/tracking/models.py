"""Logs models to MLflow, in a process that computes with TensorFlow."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import mlflow.tensorflow
import numpy as np
from mlflow import MlflowClient
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from pipeline.tracking.store import patiently
from pipeline.training.config import TrialConfig
from pipeline.training.environment import COMPUTING_PACKAGES, computing_environment
from pipeline.training.network import build_model
from pipeline.training.quiet_tensorflow import nothing_on_stderr


def log_models(tracking_uri: str, trials: Mapping[str, tuple[TrialConfig, Path]], image_shape: tuple[int, ...], classes: int) -> None:
    """Log a servable Keras model for each run, given with the trial's configuration and weights. It is named as the run is."""
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype("uint8"), (-1, *image_shape), "image")]),
        Schema([TensorSpec(np.dtype("float32"), (-1, classes), "probabilities")]),
    )
    for run_id, (config, weights) in trials.items():
        model = build_model(config, config.seed, image_shape, classes)
        model.load_weights(weights)
        name = re.sub(r"""[/:.%"']""", "_", str(MlflowClient(tracking_uri).get_run(run_id).info.run_name))  # MLflow takes none of these
        example = np.zeros((1, *image_shape), np.uint8)
        log_model(tracking_uri, run_id, name, mlflow.tensorflow, model=model, signature=signature, input_example=example)


def log_model(tracking_uri: str, run_id: str, name: str, flavor: Any, **described: Any) -> Any:  # noqa: ANN401 - MLflow is not typed
    """Log a model to a run, as `flavor` saves what is `described`; return MLflow's ModelInfo."""
    mlflow.set_tracking_uri(tracking_uri)
    # A model goes to the active experiment.
    mlflow.set_experiment(experiment_id=MlflowClient(tracking_uri).get_run(run_id).info.experiment_id)
    versions = computing_environment()
    requirements = [f"{package}=={versions[package]}" for package in COMPUTING_PACKAGES if package in versions]
    with nothing_on_stderr():  # MLflow tries the model on its example, and TensorFlow comments on how
        return patiently(Model.log, artifact_path=None, name=name, flavor=flavor, run_id=run_id, pip_requirements=requirements, **described)
