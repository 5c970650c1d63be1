"""Measures of class probabilities, and the reference classifiers that they are compared with."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support
from threadpoolctl import threadpool_limits

from pipeline.images.arrays import Examples

CALIBRATION_BINS = 15

Probabilities = NDArray[np.floating]
Labels = NDArray[np.uint8]


def evaluate(predictions: Mapping[tuple[str, int], Probabilities], labels: Labels, classes: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Measure float32 class probabilities `(n, classes)`, by arm and seed, against uint8 labels `(n,)`.

    Returns:
        `trials`: one row per arm and seed. `per_class`: one row per arm, seed and class. `confusion_matrix`: counts of actual
        and predicted class, summed over an arm's seeds.
    """
    count, indices = len(classes), list(range(len(classes)))
    trials, per_class, confusion = [], [], []
    for (arm, seed), probabilities in predictions.items():
        predicted = probabilities.argmax(axis=1)
        trials.append({"arm": arm, "seed": seed, **measure(probabilities, labels)})
        scores = precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0.0)
        scores_by_name = dict(zip(("precision", "recall", "f1", "support"), scores, strict=True))
        per_class.append(pd.DataFrame({"arm": arm, "seed": seed, "class": classes, **scores_by_name}))
        pairs = {"actual": np.repeat(classes, count), "predicted": np.tile(classes, count)}
        confusion.append(pd.DataFrame({"arm": arm, **pairs, "count": confusion_matrix(labels, predicted, labels=indices).ravel()}))
    return {
        "trials": pd.DataFrame(trials),
        "per_class": pd.concat(per_class),
        "confusion_matrix": pd.concat(confusion).groupby(["arm", "actual", "predicted"], sort=False)["count"].sum().reset_index(),
    }


def measure(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    """Return loss (nats), accuracy and expected calibration error (shares of 1) of class probabilities `(n, classes)`."""
    exact = probabilities.astype(np.float64)
    return {
        "loss": float(log_loss(labels, exact / exact.sum(axis=1, keepdims=True), labels=list(range(exact.shape[1])))),
        "accuracy": float(accuracy_score(labels, probabilities.argmax(axis=1))),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
    }


def expected_calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """Return the mean gap between confidence and accuracy over 15 bins of equal width, weighted by count (Guo et al. 2017, eq. 3)."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def evaluate_references(train: Examples, validation: Examples, test: Examples) -> pd.DataFrame:
    """Fit two classifiers for scale: always the most frequent class, and softmax regression on the pixels.

    Returns:
        One row per classifier: `reference`, `loss` (nats) and `accuracy` on the test set, `val_accuracy` on validation images.
    """
    centre = train.images.reshape(len(train.images), -1).mean(axis=0, dtype=np.float64)
    # Centred and in units of their range, float32 `(n, values)`: on such pixels a linear classifier converges.
    train_pixels, validation_pixels, test_pixels = (
        ((examples.images.reshape(len(examples.images), -1) - centre) / 255).astype(np.float32) for examples in (train, validation, test)
    )
    majority = DummyClassifier(strategy="most_frequent").fit(train_pixels, train.labels)
    # Regularised just enough to converge: less gains about one point of accuracy and takes several times as long.
    linear = LogisticRegression(C=0.001, max_iter=1000)
    with threadpool_limits(1):  # several threads would sum in another order
        linear.fit(train_pixels, train.labels)
        probabilities = linear.predict_proba(test_pixels)
        of_validation = [accuracy_score(validation.labels, model.predict(validation_pixels)) for model in (majority, linear)]
    of_majority = {"loss": None, "accuracy": accuracy_score(test.labels, majority.predict(test_pixels))}
    rows = [
        {"reference": "majority_class", **of_majority, "val_accuracy": of_validation[0]},
        {"reference": "softmax_regression", **measure(probabilities, test.labels), "val_accuracy": of_validation[1]},
    ]
    # The solver stops within a tolerance of 1e-4; further digits depend on the BLAS kernels.
    return pd.DataFrame(rows, columns=["reference", "loss", "accuracy", "val_accuracy"]).round({"loss": 4})
