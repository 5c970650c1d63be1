import math

import pandas as pd
import pytest

from pipeline.common.statistics import PairedDifference, Summary, paired_difference, summarize


def test_summary_of_hand_computed_values():
    assert summarize(pd.Series([1.0, 2.0, 6.0])) == Summary(mean=3.0, sd=pytest.approx(math.sqrt((4 + 1 + 9) / 2)), n=3)


def test_one_value_has_no_spread():
    assert summarize(pd.Series([0.5])) == Summary(mean=0.5, sd=None, n=1)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [1.0, math.inf]])
def test_values_that_cannot_be_averaged_are_refused(values):
    with pytest.raises(ValueError, match="finite"):
        summarize(pd.Series(values, dtype=float))


def test_paired_interval_of_hand_computed_values():
    treatment, reference = pd.Series([3.0, 5.0, 4.0, 6.0, 7.0]), pd.Series([1.0, 4.0, 1.0, 4.0, 5.0])
    difference = paired_difference(treatment, reference)  # 2, 1, 3, 2, 2: mean 2, sd √(2/4)
    sd, t_quantile = math.sqrt(0.5), 2.7764451051977987  # t(0.975, 4), from a table
    half = t_quantile * sd / math.sqrt(5)
    assert (difference.mean, difference.sd, difference.n) == (2.0, pytest.approx(sd), 5)
    assert (difference.low_95, difference.high_95) == pytest.approx((2 - half, 2 + half))
    assert difference.d_z == pytest.approx(2 / sd)


def test_pairs_are_matched_by_seed_whatever_their_order():
    treatment = pd.Series({0: 1.0, 1: 10.0, 2: 100.0})
    reference = pd.Series({2: 99.0, 0: 0.0, 1: 9.0})
    assert paired_difference(treatment, reference) == PairedDifference(1.0, 0.0, 1.0, 1.0, None, 3)


def test_one_pair_has_no_interval():
    assert paired_difference(pd.Series([2.0]), pd.Series([1.5])) == PairedDifference(0.5, None, None, None, None, 1)


def test_a_seed_without_its_pair_is_refused():
    with pytest.raises(ValueError, match=r"without a pair: \[2\]"):
        paired_difference(pd.Series({0: 1.0, 2: 1.0}), pd.Series({0: 1.0}))
