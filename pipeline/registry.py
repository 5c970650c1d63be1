"""MLflow's registry of models: what is registered for serving, and which version carries the alias `champion`."""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow.pyfunc
import numpy as np
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Object, Property
from numpy.typing import NDArray

from pipeline.champion import Candidate, Champion, objections
from pipeline.cifar10 import CLASSES, IMAGE_SHAPE
from pipeline.errors import PipelineError
from pipeline.quiet_tensorflow import nothing_on_stderr
from pipeline.statistics import Summary
from pipeline.tracking import Ledger, PatientClient, computing_requirements, store_lock

if TYPE_CHECKING:
    import keras

MODEL = "cifar10-mlp"
ALIAS = "champion"
ABOUT = "Classifies 32 x 32 colour images into the ten classes of CIFAR-10. The alias `champion` is on the version that is served."
SIGNATURE = ModelSignature(
    Schema([TensorSpec(np.dtype("uint8"), (-1, *IMAGE_SHAPE))]),
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
    version = _find(ledger.client, submission) or _add(ledger, run_id, submission)
    with store_lock():
        present = read_champion(ledger.client)
        if present is not None and present.version == str(version.version):
            return f"{MODEL} version {version.version} ({version.tags['arm']}, seed {version.tags['seed']}) is the champion already"
        reasons = objections(submission.candidate, submission.linear_val_accuracy, submission.data_md5, present)
        ledger.client.set_model_version_tag(MODEL, version.version, "gate", "; ".join(reasons) or "passed")
        if reasons:
            return f"{MODEL} version {version.version} is registered without the alias {ALIAS}: {'; '.join(reasons)}"
        ledger.client.set_registered_model_alias(MODEL, ALIAS, version.version)
    return f"{MODEL} version {version.version} ({submission.candidate.arm}, seed {submission.candidate.seed}) is the champion now"


def read_champion(client: PatientClient) -> Champion | None:
    """Read what the registry says of the version that carries the alias, if one does."""
    try:
        version = client.get_model_version_by_alias(MODEL, ALIAS)
    except MlflowException:
        return None
    tags = version.tags
    # A version that somebody registered by hand says nothing of itself: it cannot be compared.
    sd, mean = (float(tags.get(f"arm_val_accuracy_{what}", "nan")) for what in ("sd", "mean"))
    summary = Summary(mean, None if np.isnan(sd) else sd, int(tags.get("arm_seeds", "0")))
    return Champion(str(version.version), tags.get("data_md5", "unknown"), summary)


def _find(client: PatientClient, submission: Submission) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{MODEL}' and tags.identity = '{_identity(submission)}'")
    return max(versions, key=lambda version: int(version.version), default=None)


def _identity(submission: Submission) -> str:
    """Equal for what would be served in the same way: trained alike, in the same form, answered for by the same code."""
    from pipeline import served_model

    form, _, _measured = submission.form.partition(":")
    described = (submission.trial_key, form, inspect.getsource(served_model), str(SIGNATURE))
    return hashlib.sha256("\n".join(described).encode()).hexdigest()


def _add(ledger: Ledger, run_id: str, submission: Submission) -> ModelVersion:
    with suppress(MlflowException):  # it is there from the second time on
        ledger.client.create_registered_model(MODEL, description=ABOUT)
    model = _log_model(ledger, run_id, submission)
    ledger.log_model_metrics(run_id, model.model_id, dict(submission.metrics))
    version: ModelVersion = ledger.client.create_model_version(
        MODEL, f"models:/{model.model_id}", run_id, tags=_tags(submission), description=submission.card, model_id=model.model_id
    )
    return version


def _log_model(ledger: Ledger, run_id: str, submission: Submission) -> Any:  # noqa: ANN401 - MLflow's ModelInfo is not typed
    from pipeline import served_model

    mlflow.set_tracking_uri(ledger.tracking_uri)
    mlflow.set_experiment(experiment_id=ledger.experiment_id)  # a model goes to the active experiment
    with tempfile.TemporaryDirectory() as folder, nothing_on_stderr():  # MLflow tries the example, and TensorFlow comments on how
        network = Path(folder) / "network.keras"
        submission.network.save(network)
        return Model.log(
            artifact_path=None,
            name=MODEL,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            python_model=served_model.__file__,
            artifacts={"network": str(network)},
            model_config={"classes": list(CLASSES)},
            signature=SIGNATURE,
            input_example=submission.example,
            pip_requirements=computing_requirements(),
        )


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


def load_champion() -> tuple[PyFuncModel, str]:
    """Load the model that carries the alias, and say which it is.

    Raises:
        PipelineError: there is none, or it cannot be loaded.
    """
    with Ledger() as ledger:
        mlflow.set_tracking_uri(ledger.tracking_uri)
        try:
            version = ledger.client.get_model_version_by_alias(MODEL, ALIAS)
        except MlflowException:
            mend = "run `make repro`, or, where that has nothing to do, `dvc repro --force evaluate`"
            raise PipelineError(f"{MODEL}: no version has the alias {ALIAS}; {mend}") from None
        with nothing_on_stderr():
            model = mlflow.pyfunc.load_model(f"models:/{MODEL}/{version.version}")
    return model, f"{MODEL} version {version.version} ({version.tags.get('arm', 'registered by hand')})"
