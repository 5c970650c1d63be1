import math

import numpy as np
import pandas as pd
import pytest

from claims.judging.kinds import AfterEpoch, AtMatchedLevel, LargestUsable, LogEpochsToReach, LogSDOfChanges, MeanOfLastEpochs, Range


def history(values, column="val_accuracy", **columns) -> pd.DataFrame:
    return pd.DataFrame({"epoch": range(1, len(values) + 1), column: values, **columns})


def test_the_mean_of_the_last_epochs():
    last_3 = MeanOfLastEpochs(kind="mean_of_last_epochs", column="val_accuracy", epochs=3)
    assert last_3.of_trial(history([0.9, 0.1, 0.2, 0.6])) == pytest.approx(0.3)
    assert last_3.of_trial(history([0.4])) == 0.4
    assert math.isnan(last_3.of_trial(history([0.4, 0.5, math.nan])))


def test_the_value_after_an_epoch_or_the_last_of_a_trial_that_diverged_before():
    second = AfterEpoch(kind="after_epoch", column="val_accuracy", epoch=2)
    assert second.of_trial(history([0.1, 0.2, 0.3])) == 0.2
    assert second.of_trial(history([0.1, math.nan, math.nan])) == 0.1
    assert math.isnan(second.of_trial(history([math.nan, math.nan])))


def test_the_sd_of_changes_counts_from_its_epoch_on():
    sd = LogSDOfChanges(kind="log_sd_of_changes", column="val_loss", from_epoch=2)
    assert sd.of_trial(history([9.0, 1.0, 2.0, 1.0], "val_loss")) == pytest.approx(math.log(math.sqrt(2)))  # changes +1 and −1
    assert math.isnan(sd.of_trial(history([9.0, 1.0, 2.0], "val_loss")))  # one change has no spread
    assert math.isnan(sd.of_trial(history([9.0, 1.0, 2.0, math.inf], "val_loss")))


@pytest.mark.parametrize(
    ("accuracies", "mean_of", "epochs"),
    [
        ([0.2, 0.4, 0.6], 1, 2.25),  # 0.45 is a quarter of the way from 0.4 to 0.6
        ([0.8, 0.1, 0.1], 1, 0.5),  # from 0.1 before the first epoch
        ([0.3, 0.5, 0.7], 3, 2.5),  # means 0.3, 0.4, 0.5
        ([0.2, 0.3], 1, 3.0),  # not reached: an epoch after the last
        ([0.4, 0.44, math.nan, math.nan], 1, 5.0),  # diverged before: the same
        ([0.2, 0.6, math.nan, math.nan], 3, 5.0),  # of two epochs the mean is 0.4, and of the second alone nobody asks
    ],
)
def test_epochs_to_reach_an_accuracy(accuracies, mean_of, epochs):
    reach = LogEpochsToReach(kind="log_epochs_to_reach", column="val_accuracy", level=0.45, mean_of=mean_of)
    assert math.exp(reach.of_trial(history(accuracies))) == pytest.approx(epochs)


def matched() -> AtMatchedLevel:
    return AtMatchedLevel(kind="at_matched_level", column="val_loss", level_of="train_eval_loss", arms=["baseline", "batch_norm"])


def arm(name, train, validation) -> pd.DataFrame:
    return history(validation, "val_loss", train_eval_loss=train, arm=name)


def test_a_matched_level_is_the_lowest_that_both_arms_reach():
    values = matched().of_seed(
        {
            0: arm("baseline", [2.0, 1.5, 1.2], [2.1, 1.7, 1.6]),
            1: arm("batch_norm", [1.6, 1.0, 0.5], [1.9, 1.5, 1.8]),
            2: arm("layer_norm", [2.0, 0.1, 0.0], [2.0, 2.0, 2.0]),
        }
    )
    assert values[0] == pytest.approx(1.6)  # at 1.2, its lowest
    assert values[1] == pytest.approx(1.9 - 2 / 3 * 0.4)  # 1.2 lies two thirds of the way from 1.6 to 1.0
    assert math.isnan(values[2])


def test_a_matched_level_needs_both_arms_and_finite_losses():
    diverged = matched().of_seed({0: arm("baseline", [2.0, math.nan], [2.0, 2.0]), 1: arm("batch_norm", [1.6], [1.9])})
    alone = matched().of_seed({0: arm("baseline", [2.0], [2.0])})
    assert all(map(math.isnan, [*diverged.values(), *alone.values()]))


def test_the_range_over_levels():
    assert Range(take="range", parameter="kernel_gain").of(pd.Series([0.3, 0.1, 0.4])) == pytest.approx(0.3)
    assert math.isnan(Range(take="range", parameter="kernel_gain").of(pd.Series([0.3, math.nan])))


@pytest.mark.parametrize(
    ("accuracies", "exponent"),
    [
        ([0.4, 0.4, 0.4], -1.0),  # usable up to the top of the grid
        ([0.4, 0.4, 0.3], -1.5),  # half of the way from 0.4 to 0.3
        ([0.2, 0.4, 0.1], -2 + 1 / 6),  # the largest counts, whatever is below
        ([0.3, 0.2, 0.1], -4.0),  # none: a step below the lowest
    ],
)
def test_the_largest_usable_level(accuracies, exponent):
    largest = LargestUsable(take="largest_usable", parameter="learning_rate", threshold=0.35)
    shuffled = pd.Series(accuracies, index=[0.001, 0.01, 0.1]).iloc[[2, 0, 1]]
    assert largest.of(shuffled) == pytest.approx(exponent)


def test_levels_between_which_no_step_is_known_give_no_largest_usable_one():
    largest = LargestUsable(take="largest_usable", parameter="learning_rate", threshold=0.35)
    assert np.isnan(largest.of(pd.Series([0.1], index=[0.001])))
