"""MLflow's registry of models: which versions there are, and which carries the alias `champion` and is served."""

import hashlib
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.training.quiet_tensorflow import nothing_on_stderr  # isort: skip - before TensorFlow
import keras
import mlflow.artifacts
import mlflow.pyfunc
import numpy as np
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Object, Property
from numpy.typing import NDArray

from pipeline.common.addresses import reason
from pipeline.common.errors import PipelineError
from pipeline.common.statistics import Summary
from pipeline.tracking import names
from pipeline.tracking.ledger import Ledger
from pipeline.tracking.models import log_model
from pipeline.tracking.provenance import read_dataset
from pipeline.tracking.store import PatientClient, store_lock, unless_it_is_there

SERVED_MODEL = Path(__file__).with_name("served_model.py")
ALIAS = "champion"
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the model, or the alias
PICKLES_VARIABLE = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
ABOUT = "Classifies images. The alias `champion` is on the version that is served; each version is described by its model card."


@dataclass(frozen=True)
class Candidate:
    """The trial that validates best: its arm, chosen by its mean over seeds, and within it the seed."""

    arm: str
    seed: int
    val_accuracy: float
    arm_val_accuracy: Summary


@dataclass(frozen=True)
class Submission:
    """A candidate with all that the registry keeps of it.

    `network` takes uint8 images `(n, height, width, channels)`; `metrics` are shares and nats; `example` is one image.
    """

    model: str
    candidate: Candidate
    trial_key: str
    data_md5: str
    linear_val_accuracy: float
    network: keras.Sequential
    classes: Sequence[str]
    form: str
    card: str
    metrics: Mapping[str, float]
    example: NDArray[np.uint8]

    def signature(self) -> ModelSignature:
        """Return the signature, which has MLflow pass on the images as they are: for uint8 it would cut 0.5 to 0."""
        probabilities = Object([Property(name, DataType.double) for name in self.classes])
        outputs = Schema([ColSpec(DataType.string, "class"), ColSpec(probabilities, "probabilities")])
        return ModelSignature(Schema([TensorSpec(np.dtype("object"), (-1,), "images")]), outputs)

    def identity(self) -> str:
        """Return a hash that is equal for what answers in the same way: trained alike, and served by the same code."""
        described = (self.trial_key, SERVED_MODEL.read_text(encoding="utf-8"), str(self.signature()))
        return hashlib.sha256("\n".join(described).encode()).hexdigest()

    def tags(self) -> dict[str, str]:
        """Return what the model's version is tagged with."""
        arm = self.candidate.arm_val_accuracy
        return {
            names.IDENTITY: self.identity(),
            names.TRIAL_KEY: self.trial_key,
            names.DATA_MD5: self.data_md5,
            names.ARM: self.candidate.arm,
            names.SEED: str(self.candidate.seed),
            names.FORM: self.form,
            names.ARM_SEEDS: str(arm.n),
            names.ARM_MEAN: repr(arm.mean),
            names.ARM_SD: "nan" if arm.sd is None else repr(arm.sd),
            **{name: repr(value) for name, value in self.metrics.items()},
        }


def model_name(network: str) -> str:
    """Return the name under which a network is registered, such as `cifar10-mlp`."""
    return f"{read_dataset()['name']}-{network}"


def register(ledger: Ledger, run_id: str, submission: Submission) -> str:
    """Register the candidate, unless it is there already, and give it the alias unless something speaks against it; say which."""
    model, client = submission.model, ledger.client
    with store_lock():
        version = _find(client, submission) or _add(ledger, run_id, submission)
        # With more seeds, what is known of a version changes: the mean of its arm is another.
        client.update_model_version(model, version, submission.card)
        for name, value in submission.tags().items():
            client.set_model_version_tag(model, version, name, value)
        present = find_champion(client, model)
        named = f"{model} version {version} ({submission.candidate.arm}, seed {submission.candidate.seed})"
        if present is not None and str(present.version) == version:
            return f"{named} is the champion already"
        reasons = objections(submission.candidate, submission.linear_val_accuracy, submission.data_md5, present)
        client.set_model_version_tag(model, version, names.GATE, "; ".join(reasons) or "passed")
        if reasons:
            return f"{named} is registered without the alias {ALIAS}: {'; '.join(reasons)}"
        client.set_registered_model_alias(model, ALIAS, version)
    return f"{named} is the champion now"


def objections(candidate: Candidate, linear_val_accuracy: float, data_md5: str, champion: ModelVersion | None) -> list[str]:
    """Return why the candidate may not become champion; nothing if it may.

    Its arm's mean must beat a linear classifier on the pixels, and fall behind the present champion's by no more than the
    seeds' spread: the larger of the two arms' sample standard deviations. The test set has no say.
    """
    now, found = candidate.arm_val_accuracy, []
    if now.mean <= linear_val_accuracy:
        linear = f"a linear classifier on the pixels at {linear_val_accuracy:.2%}"
        found.append(f"it validates at {now.mean:.2%} (mean over seeds), and {linear}")
    if champion is None:
        return found
    named = f"the present champion, version {champion.version},"
    incomparable = "so that the two cannot be compared; take the alias from it in the MLflow UI if it should go"
    try:
        its_data, mean, sd = champion.tags[names.DATA_MD5], float(champion.tags[names.ARM_MEAN]), float(champion.tags[names.ARM_SD])
    except (KeyError, ValueError):
        return [*found, f"{named} was registered by hand, {incomparable}"]
    spread = max(now.sd or 0.0, 0.0 if math.isnan(sd) else sd)
    if its_data != data_md5:
        found.append(f"{named} learned from other data or another split, {incomparable}")
    elif now.mean < mean - spread:
        means = f"it validates at {now.mean:.2%}, and {named} at {mean:.2%} (means over seeds)"
        found.append(f"{means}: further behind than the seeds' spread of {100 * spread:.2f} points")
    return found


def load_champion(model: str) -> tuple[PyFuncModel, str]:
    """Load the version that carries the alias, and say which it is.

    Raises:
        PipelineError: There is none, or it cannot be loaded, as one that is a pickle.
    """
    with Ledger() as ledger:
        version = find_champion(ledger.client, model)
    if version is None:
        mend = "run `make repro`, or, where that has nothing to do, `dvc repro --force evaluate`"
        raise PipelineError(f"{model}: no version has the alias {ALIAS}; {mend}")
    named = f"{model} version {version.version} ({version.tags.get(names.ARM, 'registered by hand')})"
    mlflow.set_tracking_uri(ledger.tracking_uri)
    os.environ[PICKLES_VARIABLE] = "false"  # a pickle may run anything, and none of our models holds one
    try:
        with nothing_on_stderr():
            return mlflow.pyfunc.load_model(f"models:/{model}/{version.version}"), named
    except (MlflowException, OSError, ValueError) as error:
        raise PipelineError(f"{named}: cannot be loaded ({reason(error)}); run `dvc repro --force evaluate` to register it anew") from None


def find_champion(client: PatientClient, model: str) -> ModelVersion | None:
    """Return the version that carries the alias, if one does."""
    try:
        version: ModelVersion = client.get_model_version_by_alias(model, ALIAS)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        return None
    return version


def _find(client: PatientClient, submission: Submission) -> str | None:
    """Return the newest version that answers as this one would, and whose files are still there."""
    whole = []
    query = f"name = '{submission.model}' and tags.{names.IDENTITY} = '{submission.identity()}'"
    for version in client.search_model_versions(query):
        try:
            address = client.get_model_version_download_uri(submission.model, version.version)
            if mlflow.artifacts.list_artifacts(artifact_uri=address):
                whole.append(int(version.version))
        except (MlflowException, OSError):
            continue
    return str(max(whole)) if whole else None


def _add(ledger: Ledger, run_id: str, submission: Submission) -> str:
    """Log the model to the run and register it; return its version."""
    with unless_it_is_there():
        ledger.client.create_registered_model(submission.model, description=ABOUT)
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "network.keras"
        submission.network.save(network)
        model = log_model(
            ledger.tracking_uri,
            run_id,
            submission.model,
            mlflow.pyfunc,
            python_model=str(SERVED_MODEL),
            artifacts={"network": str(network)},
            model_config={"classes": list(submission.classes)},
            signature=submission.signature(),
            input_example=submission.example,
        )
    ledger.log_summary(run_id, submission.metrics, model_id=model.model_id)
    version = ledger.client.create_model_version(submission.model, f"models:/{model.model_id}", run_id, model_id=model.model_id)
    return str(version.version)
