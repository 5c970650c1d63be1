import gc
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from claims.judging.inference import Effect, Judgement, judge, judge_timing
from pipeline.common.statistics import summarize_differences

SIGNIFICANCE = 0.05
CLAIMS, SEEDS = 10, 5
FAMILIES = 150


@pytest.fixture(autouse=True)
def _fast_holm(monkeypatch):
    """Statsmodels collects garbage on every correction, which takes ten times as long as all the rest."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def around(mean: float, spread: float) -> pd.Series:
    """Five seeds with sd = spread · √(5/8)."""
    return pd.Series(mean + spread * np.array([-1.0, -0.5, 0.0, 0.5, 1.0]))


def judge_alone(differences, null_effect=0.0, smallest_effect=0.2, significance=SIGNIFICANCE) -> Judgement:
    return judge({"X1": Effect(pd.Series(differences, dtype=float), null_effect, smallest_effect)}, significance)["X1"]


def tail_of_t2(t: float) -> float:
    """P(T > t) with 2 degrees of freedom, in closed form."""
    return (1 - t / math.sqrt(2 + t**2)) / 2


def tail_of_t4(t: float) -> float:
    """P(T > t) with 4 degrees of freedom, in closed form."""
    return 0.5 - 3 / 8 * t / math.sqrt(1 + t**2 / 4) * (1 - t**2 / (12 + 3 * t**2))


def test_both_tests_of_hand_computed_values():
    judgement = judge_alone([1.0, 2.0, 3.0], null_effect=0.5, smallest_effect=3.0)  # mean 2, sd 1, standard error 1/√3
    assert (judgement.n, judgement.mean, judgement.sd, judgement.d_z) == (3, 2.0, 1.0, 2.0)
    assert judgement.p_above == pytest.approx(tail_of_t2(1.5 * math.sqrt(3)))
    assert judgement.p_below == pytest.approx(tail_of_t2(1.0 * math.sqrt(3)))
    half = 4.302652729749462 / math.sqrt(3)  # t(0.975, 2), from a table
    assert (judgement.low_95, judgement.high_95) == pytest.approx((2 - half, 2 + half))


def test_p_of_five_seeds():
    judgement = judge_alone([2.0, 1.0, 3.0, 2.0, 2.0], smallest_effect=2.5)  # mean 2, standard error √0.1
    assert judgement.p_above == pytest.approx(tail_of_t4(2 / math.sqrt(0.1)))
    assert judgement.p_below == pytest.approx(tail_of_t4(0.5 / math.sqrt(0.1)))


def test_both_tests_have_one_side():
    """What lies on the wrong side of a null hypothesis has a p above one half, however far it is."""
    judgement = judge_alone(around(-1.0, 0.1))
    assert judgement.p_above > 0.99
    assert judgement.p_below < 0.01


def test_power_and_the_detectable_effect_are_what_a_simulation_finds():
    sd, null_effect, smallest_effect = 0.1, 0.05, 0.2
    observed = around(0.0, sd / math.sqrt(5 / 8))
    judgement = judge_alone(observed, null_effect, smallest_effect)
    noise = np.random.default_rng(1).normal(0, sd, (20_000, SEEDS))

    def share_rejected(effect: float) -> float:
        t = (noise.mean(axis=1) + effect - null_effect) / (noise.std(axis=1, ddof=1) / math.sqrt(SEEDS))
        return float((t > 2.1318467863266495).mean())  # t(0.95, 4), from a table

    assert judgement.power == pytest.approx(share_rejected(smallest_effect), abs=0.01)
    assert share_rejected(judgement.detectable) == pytest.approx(0.8, abs=0.01)


def test_a_smallest_effect_that_is_the_null_effect_has_no_power():
    judgement = judge_alone(around(0.0, 0.01), null_effect=-0.01, smallest_effect=-0.01)
    assert judgement.power is None
    assert judgement.detectable > -0.01


def test_one_seed_is_not_tested():
    assert judge_alone([0.3]) == Judgement(n=1, mean=0.3, verdict="inconclusive")


def test_no_seed_is_not_tested():
    assert judge_alone([]) == Judgement(n=0, verdict="inconclusive")


@pytest.mark.parametrize("third", [0.1 + 0.2, 0.3])
def test_differences_that_are_equal_but_for_rounding_are_not_tested(third):
    """With a spread of 1e-17 any mean would be significant."""
    judgement = judge_alone([0.3, 0.3, third])
    mean = judgement.mean
    assert judgement == Judgement(n=3, mean=mean, sd=0.0, low_95=mean, high_95=mean, verdict="inconclusive")
    assert mean == pytest.approx(0.3)


def test_a_difference_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        judge_alone([0.1, math.nan])


@pytest.mark.parametrize(
    ("verdict", "mean", "spread"),
    [
        ("supported", 0.5, 0.05),
        ("supported", 0.2, 0.01),  # the smallest effect itself matters
        ("true but negligible", 0.1, 0.01),  # refuted too, were that asked first
        ("reversed", -0.1, 0.01),  # refuted too
        ("refuted", 0.0, 0.05),
        ("inconclusive", 0.1, 1.0),
        ("inconclusive", 0.19, 0.05),  # above 0, and not known to be too small
        ("inconclusive", 0.5, 2.0),  # large, and not known to be above 0
    ],
)
def test_the_verdict_follows_from_the_two_tests(verdict, mean, spread):
    assert judge_alone(around(mean, spread)).verdict == verdict


@pytest.mark.parametrize(
    ("verdict", "mean", "spread"),
    [
        ("supported", 0.0, 0.005),
        ("supported", -0.008, 0.001),  # worse, but by less than the margin
        ("reversed", -0.02, 0.001),
        ("refuted", -0.0125, 0.003),  # t = −2.36: one side is rejected, and the two-sided interval reaches the margin
        ("inconclusive", -0.01, 0.005),
    ],
)
def test_the_verdict_of_non_inferiority(verdict, mean, spread):
    assert judge_alone(around(mean, spread), null_effect=-0.01, smallest_effect=-0.01).verdict == verdict


def test_a_p_of_just_the_significance_rejects():
    p = judge_alone(around(0.5, 0.2)).p_above
    assert judge_alone(around(0.5, 0.2), significance=p).verdict == "supported"
    assert judge_alone(around(0.5, 0.2), significance=p * 0.999).verdict == "inconclusive"


def test_the_verdict_is_of_adjusted_p_values():
    effect = Effect(around(0.5, 0.5), 0.0, 0.2)  # p = 0.024
    assert judge({"X1": effect}, SIGNIFICANCE)["X1"].verdict == "supported"
    assert {judgement.verdict for judgement in judge({"X1": effect, "X2": effect, "X3": effect}, SIGNIFICANCE).values()} == {"inconclusive"}


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests_the_next_by_one_less():
    family = {f"X{mean}": Effect(pd.Series([mean - 1.0, mean, mean + 1.0]), 0.0, 10.0) for mean in (2, 4, 3)}
    judgements = judge(family, SIGNIFICANCE)
    expected = {"X4": 3 * tail_of_t2(4 * math.sqrt(3)), "X3": 2 * tail_of_t2(3 * math.sqrt(3)), "X2": tail_of_t2(2 * math.sqrt(3))}
    assert {claim: judgement.p_above_holm for claim, judgement in judgements.items()} == pytest.approx(expected)
    assert list(judgements) == ["X2", "X4", "X3"]


def test_a_larger_p_is_never_adjusted_to_less():
    three, two = Effect(pd.Series([2.0, 3.0, 4.0]), 0.0, 10.0), Effect(pd.Series([1.0, 2.0, 3.0]), 0.0, 10.0)
    judgements = judge({"X1": two, "X2": three, "X3": three}, SIGNIFICANCE)
    assert judgements["X1"].p_above == pytest.approx(tail_of_t2(2 * math.sqrt(3)))  # 0.037, below 0.05 by itself
    assert judgements["X1"].p_above_holm == pytest.approx(3 * tail_of_t2(3 * math.sqrt(3)))  # 0.053


def test_a_and_b_are_families_apart():
    effects = {"X1": Effect(around(0.5, 0.1), 0.0, 0.2), "X2": Effect(around(0.0, 0.1), 0.0, 0.2)}
    judgements = judge(effects, SIGNIFICANCE)
    assert judgements["X1"].p_above_holm == pytest.approx(2 * judgements["X1"].p_above)
    assert judgements["X2"].p_below_holm == pytest.approx(2 * judgements["X2"].p_below)


def test_claims_that_cannot_be_tested_count_as_they_were_announced():
    untested = {f"X{n}": Effect(pd.Series([0.3] * n, dtype=float), 0.0, 0.2) for n in (0, 1, 2)}
    judgements = judge({**untested, "X3": Effect(around(0.5, 0.1), 0.0, 0.2)}, SIGNIFICANCE)
    assert judgements["X3"].p_above_holm == pytest.approx(4 * judgements["X3"].p_above)
    assert [judgements[claim].p_above_holm for claim in untested] == [None] * 3


def test_nothing_to_judge_gives_nothing():
    assert judge({}, SIGNIFICANCE) == {}


@pytest.mark.parametrize(("family", "true_effect"), [("above", 0.0), ("below", 0.2)])
def test_no_more_than_a_twentieth_of_all_families_reject_a_true_hypothesis(family, true_effect):
    """Ten claims of five seeds, each effect just where the test's hypothesis still holds."""
    differences = np.random.default_rng(2).normal(true_effect, 0.1, (20_000, CLAIMS, SEEDS))
    alternative = {"above": "greater", "below": "less"}[family]
    smallest_p = stats.ttest_1samp(differences, true_effect, axis=-1, alternative=alternative).pvalue.min(axis=-1)
    rejects = smallest_p * CLAIMS <= SIGNIFICANCE  # Holm's first step decides whether anything is rejected
    judged = [rejects_any(family, claims) for claims in differences[:100]]
    assert judged == rejects[:100].tolist()
    assert rejects.mean() <= SIGNIFICANCE + 3 * math.sqrt(SIGNIFICANCE * (1 - SIGNIFICANCE) / len(rejects))
    assert (smallest_p <= SIGNIFICANCE).mean() > 0.35  # without the correction


@pytest.mark.parametrize(("true_effect", "wrong"), [(0.0, {"supported", "true but negligible"}), (0.0, {"reversed"}), (0.2, {"refuted"})])
def test_no_more_than_a_twentieth_of_all_families_have_a_wrong_verdict(true_effect, wrong):
    """Of what `judge` itself says: an interval alone would call one of ten true nulls reversed in a fifth of all families."""
    families = np.random.default_rng(4).normal(true_effect, 0.1, (FAMILIES, CLAIMS, SEEDS))
    found = [any(judgement.verdict in wrong for judgement in judge_together(claims)) for claims in families]
    assert np.mean(found) <= SIGNIFICANCE + 3 * math.sqrt(SIGNIFICANCE * (1 - SIGNIFICANCE) / FAMILIES)


def rejects_any(family: str, differences) -> bool:
    return any(getattr(judgement, f"p_{family}_holm") <= SIGNIFICANCE for judgement in judge_together(differences))


def judge_together(differences) -> list[Judgement]:
    effects = {f"X{index}": Effect(pd.Series(values), 0.0, 0.2) for index, values in enumerate(differences)}
    return list(judge(effects, SIGNIFICANCE).values())


def test_intervals_over_five_seeds_cover_the_truth_as_often_as_they_say():
    differences = np.random.default_rng(3).normal(0.3, 1.0, (3_000, SEEDS))
    intervals = [summarize_differences(pd.Series(values)) for values in differences]
    covered = np.mean([interval.low_95 <= 0.3 <= interval.high_95 for interval in intervals])
    assert covered == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 3_000))


BASELINE = pd.Series(np.random.default_rng(5).lognormal(math.log(5), 0.02, 20))


def test_timing_estimates_the_ratio_of_medians():
    judgement = judge_timing(pd.Series([5.0, 6.0, 8.0]), pd.Series([4.0, 10.0, 5.0]), 0.0, 0.05)
    assert judgement.mean == pytest.approx(math.log(6 / 5))  # the median of the ratios would be 5/4
    assert judgement.n == 3
    logs = [math.log(5 / 4), math.log(6 / 10), math.log(8 / 5)]
    assert judgement.sd == pytest.approx(np.std(logs, ddof=1))
    assert (judgement.d_z, judgement.p_above, judgement.p_below, judgement.power, judgement.detectable) == (None,) * 5


def test_timing_draws_whole_blocks():
    """Blocks whose speeds differ tenfold, with a constant ratio in each: drawn apart, the ratio would be anything."""
    reference = pd.Series(np.geomspace(1, 10, 20))
    judgement = judge_timing(1.1 * reference, reference, 0.0, 0.05)
    assert (judgement.low_95, judgement.high_95) == pytest.approx((math.log(1.1), math.log(1.1)))


def test_blocks_are_matched_whatever_their_order():
    reference = pd.Series(np.geomspace(1, 10, 20))
    shuffled = reference.sample(frac=1, random_state=0)
    assert judge_timing(1.1 * reference, shuffled, 0.0, 0.05).high_95 == pytest.approx(math.log(1.1))


def test_the_same_times_give_the_same_interval():
    treatment = BASELINE.sample(frac=1, random_state=0).reset_index(drop=True)
    assert judge_timing(treatment, BASELINE, 0.0, 0.05) == judge_timing(treatment, BASELINE, 0.0, 0.05)


def test_the_interval_of_timings_holds_the_truth_at_least_as_often_as_it_says():
    random = np.random.default_rng(6)
    covered = 0
    for _ in range(100):
        speed = random.lognormal(0, 0.1, 20)
        treatment, reference = (speed * random.lognormal(log, 0.05, 20) for log in (0.04, 0.0))
        judgement = judge_timing(pd.Series(treatment), pd.Series(reference), 0.0, 0.05)
        covered += judgement.low_95 <= 0.04 <= judgement.high_95
    assert covered >= 90


@pytest.mark.parametrize(
    ("verdict", "ratio", "noise"),
    [
        ("supported", 1.10, 0.005),
        ("true but negligible", 1.02, 0.005),
        ("reversed", 0.95, 0.005),
        ("refuted", 1.0, 0.02),
        ("inconclusive", 1.04, 0.05),
    ],
)
def test_the_verdict_of_timings_follows_from_the_interval(verdict, ratio, noise):
    error = noise * np.tile([-1.0, 1.0], 10)
    assert judge_timing(BASELINE * ratio * np.exp(error), BASELINE, 0.0, math.log(1.05)).verdict == verdict


def test_blocks_without_a_pair_are_refused():
    with pytest.raises(ValueError, match="without a pair"):
        judge_timing(BASELINE, BASELINE.iloc[1:], 0.0, 0.05)


@pytest.mark.parametrize("times", [[5.0], [5.0, 0.0], [5.0, -1.0], [5.0, math.nan], [5.0, math.inf]])
def test_times_that_cannot_be_compared_are_refused(times):
    with pytest.raises(ValueError, match=r"above 0|finite"):
        judge_timing(pd.Series(times), pd.Series(times), 0.0, 0.05)
