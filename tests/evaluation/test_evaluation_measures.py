import numpy as np
import pytest

from pipeline.evaluation.measures import evaluate, evaluate_references, expected_calibration_error
from pipeline.images.arrays import Examples
from pipeline.images.cifar10 import CLASSES


def probabilities(predicted: list[int], confidence: float = 1.0) -> np.ndarray:
    rows = np.full((len(predicted), 10), (1 - confidence) / 9, np.float32)
    rows[np.arange(len(predicted)), predicted] = confidence
    return rows


LABELS = np.array([0, 0, 1, 1], np.uint8)


def test_measures_each_trial():
    tables = evaluate({("baseline", 0): probabilities([0, 0, 1, 0], confidence=0.7)}, LABELS, CLASSES)
    [trial] = tables["trials"].to_dict("records")
    assert (trial["arm"], trial["seed"], trial["accuracy"]) == ("baseline", 0, 0.75)
    assert trial["loss"] == pytest.approx((-3 * np.log(0.7) - np.log(0.3 / 9)) / 4, rel=1e-5)
    assert trial["expected_calibration_error"] == pytest.approx(0.05)


def test_measures_each_class():
    table = evaluate({("baseline", 0): probabilities([0, 0, 1, 0])}, LABELS, CLASSES)["per_class"].set_index("class")
    assert table.loc["airplane", ["precision", "recall", "support"]].tolist() == [pytest.approx(2 / 3), 1, 2]
    assert table.loc["automobile", ["precision", "recall", "f1"]].tolist() == [1, 0.5, pytest.approx(2 / 3)]
    assert table.loc["truck", ["f1", "support"]].tolist() == [0, 0]
    assert list(table.index) == list(CLASSES)


def test_sums_confusions_over_an_arms_seeds():
    predictions = {("baseline", 0): probabilities([0, 0, 1, 0]), ("baseline", 1): probabilities([0, 1, 1, 1])}
    table = evaluate(predictions, LABELS, CLASSES)["confusion_matrix"].set_index(["arm", "actual", "predicted"])["count"]
    assert len(table) == 100
    assert table["baseline", "airplane", "airplane"] == 3
    assert table["baseline", "airplane", "automobile"] == 1
    assert table["baseline", "automobile", "airplane"] == 1
    assert table.sum() == 8


def test_calibration_error_of_hand_computed_cases():
    always_right_half_sure = expected_calibration_error(probabilities([0, 0, 1, 1], confidence=0.5), LABELS)
    assert always_right_half_sure == pytest.approx(0.5)
    over_and_under = np.concatenate([probabilities([0, 0], 0.9), probabilities([0, 0], 0.4)])
    assert expected_calibration_error(over_and_under, LABELS) == pytest.approx((0.1 * 2 + 0.4 * 2) / 4)
    assert expected_calibration_error(probabilities([0, 0, 1, 1]), LABELS) == pytest.approx(0)


def test_references_bound_the_scale(examples: tuple[Examples, Examples]):
    train, test = examples
    table = evaluate_references(train, train.first(30), test).set_index("reference")
    assert table.loc["majority_class", "accuracy"] == pytest.approx(0.1)
    assert table.loc["softmax_regression", "accuracy"] > 0.9
    assert table["val_accuracy"].tolist() == pytest.approx([0.1, 1.0])
    assert table.loc["softmax_regression", "loss"] < np.log(10)
