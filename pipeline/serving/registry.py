"""MLflow's registry of models: what is registered for serving, and which version carries the alias `champion`."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.training.quiet_tensorflow import nothing_on_stderr  # isort: skip - before TensorFlow
import mlflow.artifacts
import mlflow.pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Object, Property

from pipeline.common.addresses import reason
from pipeline.common.errors import PipelineError
from pipeline.common.statistics import Summary
from pipeline.images.cifar10 import CLASSES
from pipeline.serving.champion import Candidate, Champion, objections
from pipeline.tracking.models import IMAGES, log_model
from pipeline.tracking.store import Ledger, PatientClient, store_lock

if TYPE_CHECKING:
    from types import ModuleType

    import keras
    import numpy as np
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.pyfunc import PyFuncModel
    from numpy.typing import NDArray

MODEL = "cifar10-mlp"
ALIAS = "champion"
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the model, or the alias
PICKLES_VARIABLE = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
ALREADY_THERE = "RESOURCE_ALREADY_EXISTS"
ABOUT = "Classifies 32 x 32 colour images into the ten classes of CIFAR-10. The alias `champion` is on the version that is served."
SIGNATURE = ModelSignature(
    Schema([IMAGES]),
    Schema(
        [
            ColSpec(DataType.string, "class"),
            ColSpec(Object([Property(name, DataType.double) for name in CLASSES]), "probabilities"),
        ]
    ),
)


@dataclass(frozen=True)
class Submission:
    """A candidate with all that the registry keeps of it.

    `network` takes uint8 images `(n, 32, 32, 3)`; `metrics` are shares and nats; `example` is one image, `(1, 32, 32, 3)`.
    """

    candidate: Candidate
    trial_key: str
    data_md5: str
    linear_val_accuracy: float
    network: keras.Sequential
    form: str
    card: str
    metrics: Mapping[str, float]
    example: NDArray[np.uint8]


def register(ledger: Ledger, run_id: str, submission: Submission) -> str:
    """Register the candidate, unless it is registered already, give it the alias if nothing speaks against it; say what came of it."""
    with store_lock():
        version = _find(ledger.client, submission) or _add(ledger, run_id, submission)
        _describe(ledger.client, version, submission)
        present = read_champion(ledger.client)
        named = f"{MODEL} version {version} ({submission.candidate.arm}, seed {submission.candidate.seed})"
        if present is not None and present.version == version:
            return f"{named} is the champion already"
        reasons = objections(submission.candidate, submission.linear_val_accuracy, submission.data_md5, present)
        ledger.client.set_model_version_tag(MODEL, version, "gate", "; ".join(reasons) or "passed")
        if reasons:
            return f"{named} is registered without the alias {ALIAS}: {'; '.join(reasons)}"
        ledger.client.set_registered_model_alias(MODEL, ALIAS, version)
    return f"{named} is the champion now"


def read_champion(client: PatientClient) -> Champion | None:
    """Read what the registry says of the version that carries the alias, if one does.

    A version that somebody registered by hand says nothing of itself, and cannot be compared.
    """
    version = _version_with_alias(client)
    if version is None:
        return None
    tags = version.tags
    try:
        sd, mean = (float(tags[f"arm_val_accuracy_{what}"]) for what in ("sd", "mean"))
        summary = Summary(mean, None if math.isnan(sd) else sd, int(tags["arm_seeds"]))
        return Champion(str(version.version), tags["data_md5"], summary)
    except (KeyError, ValueError):
        return Champion(str(version.version), None, None)


def load_champion() -> tuple[PyFuncModel, str]:
    """Load the model that carries the alias, and say which it is.

    Raises:
        PipelineError: there is none, or it cannot be loaded, as one that is a pickle.
    """
    with Ledger() as ledger:
        version = _version_with_alias(ledger.client)
    if version is None:
        mend = "run `make repro`, or, where that has nothing to do, `dvc repro --force evaluate`"
        raise PipelineError(f"{MODEL}: no version has the alias {ALIAS}; {mend}")
    named = f"{MODEL} version {version.version} ({version.tags.get('arm', 'registered by hand')})"
    mlflow.set_tracking_uri(ledger.tracking_uri)
    os.environ[PICKLES_VARIABLE] = "false"  # a pickle may run anything, and none of our models holds one
    try:
        with nothing_on_stderr():
            return mlflow.pyfunc.load_model(f"models:/{MODEL}/{version.version}"), named
    except (MlflowException, OSError, ValueError) as error:
        raise PipelineError(f"{named}: cannot be loaded ({reason(error)}); run `dvc repro --force evaluate` to register it anew") from None


def _version_with_alias(client: PatientClient) -> ModelVersion | None:
    try:
        version: ModelVersion = client.get_model_version_by_alias(MODEL, ALIAS)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        return None
    return version


def _find(client: PatientClient, submission: Submission) -> str | None:
    """The newest version that answers as this one would, and whose files are still there."""
    versions = client.search_model_versions(f"name = '{MODEL}' and tags.identity = '{_identity(submission)}'")
    whole = [int(version.version) for version in versions if _has_files(client, version)]
    return str(max(whole)) if whole else None


def _has_files(client: PatientClient, version: ModelVersion) -> bool:
    try:
        address = client.get_model_version_download_uri(MODEL, version.version)
        return bool(mlflow.artifacts.list_artifacts(artifact_uri=address))
    except (MlflowException, OSError):
        return False


def _identity(submission: Submission) -> str:
    """Equal for what answers in the same way: trained alike, and answered for by the same code."""
    described = (submission.trial_key, inspect.getsource(_code_of_served_model()), str(SIGNATURE))
    return hashlib.sha256("\n".join(described).encode()).hexdigest()


def _code_of_served_model() -> ModuleType:
    with nothing_on_stderr():  # where MLflow advises type hints, and would take them for another signature
        from pipeline.serving import served_model
    return served_model


def _add(ledger: Ledger, run_id: str, submission: Submission) -> str:
    try:
        ledger.client.create_registered_model(MODEL, description=ABOUT)
    except MlflowException as error:
        if error.error_code != ALREADY_THERE:
            raise
    model = _log(ledger, run_id, submission)
    ledger.log_model_metrics(run_id, model.model_id, dict(submission.metrics))
    return str(ledger.client.create_model_version(MODEL, f"models:/{model.model_id}", run_id, model_id=model.model_id).version)


def _log(ledger: Ledger, run_id: str, submission: Submission) -> Any:  # noqa: ANN401 - MLflow's ModelInfo is not typed
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "network.keras"
        submission.network.save(network)
        return log_model(
            ledger.tracking_uri,
            run_id,
            MODEL,
            mlflow.pyfunc,
            python_model=_code_of_served_model().__file__,
            artifacts={"network": str(network)},
            model_config={"classes": list(CLASSES)},
            signature=SIGNATURE,
            input_example=submission.example,
        )


def _describe(client: PatientClient, version: str, submission: Submission) -> None:
    """Say of a version what is known now: with more seeds, another mean of its arm."""
    client.update_model_version(MODEL, version, submission.card)
    for name, value in _tags(submission).items():
        client.set_model_version_tag(MODEL, version, name, value)


def _tags(submission: Submission) -> dict[str, str]:
    candidate = submission.candidate
    sd = candidate.arm_val_accuracy.sd
    return {
        "identity": _identity(submission),
        "trial_key": submission.trial_key,
        "data_md5": submission.data_md5,
        "arm": candidate.arm,
        "seed": str(candidate.seed),
        "form": submission.form,
        "arm_seeds": str(candidate.arm_val_accuracy.n),
        "arm_val_accuracy_mean": repr(candidate.arm_val_accuracy.mean),
        "arm_val_accuracy_sd": "nan" if sd is None else repr(sd),
        **{name: repr(value) for name, value in submission.metrics.items()},
    }
