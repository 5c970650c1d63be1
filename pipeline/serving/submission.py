"""Hands the trial that validates best to the registry of models, in the form in which it is served."""

import hashlib
from collections.abc import Hashable, Mapping
from pathlib import Path

import pandas as pd

from pipeline.common.parameters import flatten
from pipeline.common.statistics import summarize
from pipeline.images.arrays import Examples, data_md5, load_examples
from pipeline.pages.rendering import render
from pipeline.serving.champion import Candidate, choose
from pipeline.serving.form import serving_form
from pipeline.serving.registry import Submission, register
from pipeline.tracking.store import Ledger
from pipeline.training.config import TrialConfig
from pipeline.training.network import build_model
from pipeline.trials.key import trial_key

LINEAR = "softmax_regression"
TABLES = ("trials", "per_class", "confusion_matrix", "references")

Trials = Mapping[tuple[str, int], tuple[TrialConfig, Path]]  # configuration and weights, by arm and seed


def submit(histories: Mapping[str, pd.DataFrame], trials: Trials, output: Path) -> str:
    """Log what `evaluate` wrote to the folder `output` to MLflow, submit the trial that validates best, and say what came of it.

    `histories` has every epoch of every seed, by arm.
    """
    tested, references = (pd.read_csv(output / f"{name}.csv") for name in ("trials", "references"))
    [linear] = references[references["reference"] == LINEAR].to_dict("records")
    submission = _prepare(choose(histories), trials, tested, linear)
    with Ledger() as ledger, ledger.evaluation({"test": _md5(load_examples("test")), "validation": submission.data_md5}) as run_id:
        ledger.log_summary(run_id, _means_of_arms(tested))
        for name in TABLES:
            ledger.log_file(run_id, output / f"{name}.csv")
        return register(ledger, run_id, submission)


def _prepare(candidate: Candidate, trials: Trials, tested: pd.DataFrame, linear: Mapping[Hashable, float]) -> Submission:
    config, weights = trials[candidate.arm, candidate.seed]
    validation = load_examples("validation")
    network = build_model(config, config.seed, validation.image_shape, len(validation.classes))
    network.load_weights(weights)
    form = serving_form(network, validation.images)
    md5 = data_md5()
    [row] = tested[(tested["arm"] == candidate.arm) & (tested["seed"] == candidate.seed)].to_dict("records")
    metrics = {"val_accuracy": candidate.val_accuracy, "test_accuracy": row["accuracy"], "test_loss": row["loss"]}
    key = trial_key(config, md5)
    card = render(
        "model_card.md", Path(__file__).parent,
        candidate=candidate, metrics=metrics, linear=linear, form=form.description, trial_key=key, data_md5=md5,
        calibration_error=row["expected_calibration_error"], settings=list(flatten(config.model_dump())),
        arm_test_accuracy=summarize(tested.loc[tested["arm"] == candidate.arm, "accuracy"]),
    )  # fmt: skip
    return Submission(
        candidate, key, md5, linear["val_accuracy"], form.network, form.description, card, metrics, load_examples("test").images[:1]
    )


def _means_of_arms(tested: pd.DataFrame) -> dict[str, float]:
    """Test accuracy and loss of each arm, mean over seeds, as metrics."""
    return {
        f"{arm}_test_{metric}": summarize(of_arm[metric]).mean
        for arm, of_arm in tested.groupby("arm", sort=False)
        for metric in ("accuracy", "loss")
    }


def _md5(examples: Examples) -> str:
    return hashlib.md5(examples.images.tobytes() + examples.labels.tobytes(), usedforsecurity=False).hexdigest()
