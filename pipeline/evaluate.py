"""DVC stage `evaluate`: the test set, once, for the last epoch of every trial of `train`, with references for scale.

The trial that does best on validation goes to MLflow's registry of models.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support
from threadpoolctl import threadpool_limits

from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.images.arrays import Examples, load_examples
from pipeline.images.cifar10 import CLASSES
from pipeline.training.config import TrialConfig
from pipeline.training.environment import write_environment
from pipeline.training.result import diverged
from pipeline.trials.notebook import TRAIN
from pipeline.trials.parameters import load_parameters

TRAIN_RESULTS = Path("results/train")
OUTPUT = Path("results/evaluate")
ENVIRONMENT = Path("results/environment/evaluate.json")
EXAMPLE_REQUEST = "example_request.json"  # the first test image, as the server wants it
CALIBRATION_BINS = 15
CLASS_INDICES = range(len(CLASSES))

Probabilities = NDArray[np.floating]
Labels = NDArray[np.uint8]
Predictions = dict[tuple[str, int], Probabilities]  # by arm and seed
Trials = dict[tuple[str, int], tuple[TrialConfig, Path]]  # configuration and weights of those that did not diverge


def main() -> None:
    """Write results/evaluate/ (tables, predictions, a request) and the environment, and submit the best trial."""
    argparse.ArgumentParser(prog="python -m pipeline.evaluate", description=__doc__).parse_args()
    parameters = load_parameters()
    train, test = parameters.studies[TRAIN], load_examples("test")
    histories = {arm: _read_history(arm, train.seeds) for arm in train.arms}
    trials = {
        (arm, seed): (parameters.trial_config(arm, {}, seed), _weights(arm, seed))
        for arm, seed in product(train.arms, train.seeds)
        if not diverged(histories[arm][histories[arm]["seed"] == seed])
    }
    if not trials:
        raise PipelineError("results/train: every trial diverged; lower trial.learning_rate in params.yaml")
    with ThreadPoolExecutor(1) as beside:  # the references take as long as all predictions, and another core
        references = beside.submit(evaluate_references, load_examples("train"), load_examples("validation"), test)
        predictions = _predict(trials, test)
        tables = {**evaluate(predictions, test.labels), "references": references.result()}
    _write(tables, predictions, test)
    write_environment(ENVIRONMENT)

    from pipeline.serving.submission import submit  # here, not above: it needs TensorFlow and MLflow

    print(submit(histories, trials, OUTPUT))


def evaluate(predictions: Predictions, labels: Labels) -> dict[str, pd.DataFrame]:
    """Measure float32 class probabilities `(n, 10)`, by arm and seed, against uint8 labels `(n,)`.

    Returns:
        `trials`: one row per arm and seed that did not diverge; `per_class`: one per arm, seed and class;
        `confusion_matrix`: counts of actual and predicted class, summed over an arm's seeds.
    """
    trials = [{"arm": arm, "seed": seed, **_overall(p, labels)} for (arm, seed), p in predictions.items()]
    per_class = [_per_class(p, labels).assign(arm=arm, seed=seed) for (arm, seed), p in predictions.items()]
    confusion = pd.concat(_confusion(p, labels).assign(arm=arm) for (arm, _), p in predictions.items())
    return {
        "trials": pd.DataFrame(trials),
        "per_class": pd.concat(per_class)[["arm", "seed", "class", "precision", "recall", "f1", "support"]],
        "confusion_matrix": confusion.groupby(["arm", "actual", "predicted"], sort=False)["count"].sum().reset_index(),
    }


def evaluate_references(train: Examples, validation: Examples, test: Examples) -> pd.DataFrame:
    """Two classifiers for scale: always the most frequent class, and a linear one (softmax regression on the pixels).

    `loss` (nats) and `accuracy` are on the test set, `val_accuracy` is on validation images.
    """
    centre = train.images.reshape(len(train.images), -1).mean(axis=0, dtype=np.float64)
    train_pixels, validation_pixels, test_pixels = (_pixels(examples, centre) for examples in (train, validation, test))
    # Regularised just enough to converge: less gains about one point of accuracy and takes several times as long.
    linear = LogisticRegression(C=0.001, max_iter=1000)
    with threadpool_limits(1):  # several threads would sum in another order
        linear.fit(train_pixels, train.labels)
        probabilities = linear.predict_proba(test_pixels)
        linear_on_validation = accuracy_score(validation.labels, linear.predict(validation_pixels))
    majority = DummyClassifier(strategy="most_frequent").fit(train_pixels, train.labels)
    of_majority = {
        name: accuracy_score(examples.labels, majority.predict(pixels))
        for name, examples, pixels in (("accuracy", test, test_pixels), ("val_accuracy", validation, validation_pixels))
    }
    table = pd.DataFrame(
        [
            {"reference": "majority_class", "loss": None, **of_majority},
            {"reference": "softmax_regression", **_overall(probabilities, test.labels), "val_accuracy": linear_on_validation},
        ],
        columns=["reference", "loss", "accuracy", "val_accuracy"],
    )
    # The solver stops within a tolerance of 1e-4; what stands behind it depends on which BLAS kernels it happened to use.
    return table.round({"loss": 4})


def expected_calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """Mean gap between confidence and accuracy over 15 bins of equal width, weighted by count (Guo et al. 2017, eq. 3)."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _overall(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    exact = probabilities.astype(np.float64)
    return {
        "loss": float(log_loss(labels, exact / exact.sum(axis=1, keepdims=True), labels=list(CLASS_INDICES))),
        "accuracy": float(accuracy_score(labels, probabilities.argmax(axis=1))),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
    }


def _per_class(probabilities: Probabilities, labels: Labels) -> pd.DataFrame:
    scores = precision_recall_fscore_support(labels, probabilities.argmax(axis=1), labels=list(CLASS_INDICES), zero_division=0.0)
    return pd.DataFrame({"class": CLASSES, **dict(zip(("precision", "recall", "f1", "support"), scores, strict=True))})


def _confusion(probabilities: Probabilities, labels: Labels) -> pd.DataFrame:
    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=list(CLASS_INDICES))
    rows = [(CLASSES[actual], CLASSES[predicted], counts[actual, predicted]) for actual in CLASS_INDICES for predicted in CLASS_INDICES]
    return pd.DataFrame(rows, columns=["actual", "predicted", "count"])


def _weights(arm: str, seed: int) -> Path:
    path = TRAIN_RESULTS / arm / "weights" / f"seed-{seed}.weights.h5"
    if not path.exists():
        raise PipelineError(f"{path}: not found; run `dvc repro train` first")
    return path


def _read_history(arm: str, seeds: list[int]) -> pd.DataFrame:
    path = TRAIN_RESULTS / arm / "history.csv"
    history = pd.read_csv(path)
    if missing := sorted(set(seeds) - set(history["seed"])):
        raise PipelineError(f"{path}: has no seed {missing[0]}; run `dvc repro train` first")
    return history[history["seed"].isin(seeds)]


def _predict(trials: Trials, examples: Examples) -> Predictions:
    # Here, not above: --help and the tests of the measures need no TensorFlow.
    from pipeline.training import (
        inference,
        quiet_tensorflow,  # noqa: F401 - before TensorFlow
        settings,
    )
    from pipeline.training.network import build_model

    settings.compute_deterministically()
    predictions = {}
    for (arm, seed), (config, weights) in trials.items():
        model = build_model(config, config.seed, examples.image_shape, len(examples.classes))
        model.load_weights(weights)
        predictions[arm, seed] = inference.predict(model, examples.images)
    return predictions


def _write(tables: dict[str, pd.DataFrame], predictions: Predictions, test: Examples) -> None:
    with replacing(OUTPUT) as temporary:
        for name, table in tables.items():
            _made(temporary / f"{name}.csv").write_text(table.to_csv(index=False), encoding="utf-8")
        for (arm, seed), probabilities in predictions.items():
            np.save(_made(temporary / "predictions" / arm / f"seed-{seed}.npy"), probabilities)
        (temporary / EXAMPLE_REQUEST).write_text(json.dumps({"inputs": test.images[:1].tolist()}), encoding="utf-8")


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _pixels(examples: Examples, centre: NDArray[np.float64]) -> NDArray[np.float32]:
    """Centred pixels in units of their range, float32 `(n, 3072)`: what a linear classifier converges on."""
    return ((examples.images.reshape(len(examples.images), -1) - centre) / 255).astype(np.float32)


if __name__ == "__main__":
    run(main)
