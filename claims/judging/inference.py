"""Tests of a measured effect against what is claimed: one-sided t-tests for each claim, Holm's correction, a verdict.

Test A asks whether an effect is above the null effect. Test B asks whether it is below the smallest effect that would matter. If an
effect lies on the other side of the null effect, the reverse of test A is tested too: with as many claims as here, an interval alone
would call true nulls reversed in one of five laboratories.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from pipeline.common.statistics import CONFIDENCE, paired_difference, summarize_differences

BOOTSTRAP_PURPOSE = b"bootstrap of timing blocks"
POWER_TO_DETECT = 0.8

Times = NDArray[np.floating]
Verdict = Literal["supported", "true but negligible", "reversed", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Effect:
    """A claim's effect in each seed, and the two effects that it is tested against, all in one unit.

    What is above `null_effect` speaks for the claim; what is below `smallest_effect` is too small to matter.
    """

    differences: "pd.Series[float]"
    null_effect: float
    smallest_effect: float


class Judgement(BaseModel):
    """What was measured of one claim, and what the tests say of it; what does not exist is None.

    `differences` is the effect of each seed, or of each block of timing, and `excluded` the seeds without an effect; `mean`, `sd`,
    `low_95`, `high_95` and `d_z` are those of `PairedDifference`. `p_above` is test A's (H0: effect ≤ null effect) and `p_below`
    test B's (H0: effect ≥ smallest effect), both before Holm's correction; `p_reversed_holm` is that of the reverse of test A (H0:
    effect ≥ null effect; before correction 1 − `p_above`). `power` is the probability that test A rejects before correction if the
    effect is the smallest one and the spread as observed, and `detectable` the effect at which that probability is 80 %.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    n: int | None = None
    excluded: list[int] | None = None
    differences: dict[str, float] | None = None
    mean: float | None = None
    sd: float | None = None
    low_95: float | None = None
    high_95: float | None = None
    d_z: float | None = None
    p_above: float | None = None
    p_above_holm: float | None = None
    p_below: float | None = None
    p_below_holm: float | None = None
    p_reversed_holm: float | None = None
    power: float | None = None
    detectable: float | None = None
    power_note: str | None = None
    premise: dict[str, int | float] | None = None
    verdict: str | None = None
    direction: str | None = None


def judge(effects: Mapping[str, Effect], significance: float) -> dict[str, Judgement]:
    """Judge claims together. Tests A are one family for Holm's correction, tests B another, the reverses of tests A a third.

    Without a spread between seeds (none, one, or the same difference in all of them) there is nothing to test with: such a
    claim is inconclusive and has no p-values. It counts in the families all the same, since they were announced with it.

    Raises:
        ValueError: a difference is not finite.
    """
    tested = {claim: _test(effect, significance) for claim, effect in effects.items()}
    above = _adjust([found.p_above for found in tested.values()])
    below = _adjust([found.p_below for found in tested.values()])
    # The t-distribution is symmetric.
    turned_round = _adjust([None if found.p_above is None else 1 - found.p_above for found in tested.values()])
    judged = {}
    for (claim, found), *p_values in zip(tested.items(), above, below, turned_round, strict=True):
        effect, rejected = effects[claim], [p is not None and p <= significance for p in p_values]
        verdict = _verdict(
            is_above=rejected[0],
            matters=found.mean is not None and found.mean >= effect.smallest_effect,
            is_below=rejected[1],
            is_reversed=rejected[2] and found.high_95 is not None and found.high_95 < effect.null_effect,
        )
        corrected = dict(zip(("p_above_holm", "p_below_holm", "p_reversed_holm"), p_values, strict=True))
        judged[claim] = found.model_copy(update={**corrected, "verdict": verdict})
    return judged


def judge_timing(treatment: "pd.Series[float]", reference: "pd.Series[float]", null_effect: float, smallest_effect: float) -> Judgement:
    """Judge the log ratio of two arms' median times, both indexed by block, by its interval alone.

    `mean` is log(median of `treatment` / median of `reference`), `sd` that of the blocks' own log ratios, `n` their number.
    Blocks of one process are no sample of anything that a test could speak of: there are no p-values, d_z and power.

    The interval is a 95 % percentile bootstrap over whole blocks, so that what slowed both arms stays together. It is not
    BCa, since that takes its acceleration from a jackknife, which fails for medians (Efron and Tibshirani 1993, chapter 11).

    Raises:
        ValueError: the blocks differ, there are fewer than two, or a time is not above 0 and finite.
    """
    if len(treatment) < 2 or not ((treatment > 0).all() and (reference > 0).all()):
        raise ValueError("needs at least two blocks, and times above 0")
    blocks = paired_difference(treatment.map(math.log), reference.map(math.log))
    times = treatment.to_numpy(), reference.reindex(treatment.index).to_numpy()
    purpose = int.from_bytes(hashlib.sha256(BOOTSTRAP_PURPOSE).digest()[:4], "big")
    random = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(purpose, 0)))
    interval = stats.bootstrap(
        times, _log_ratio_of_medians, paired=True, confidence_level=CONFIDENCE, method="percentile", rng=random
    ).confidence_interval
    mean, low, high = float(_log_ratio_of_medians(*times)), float(interval.low), float(interval.high)
    verdict = _verdict(
        is_above=low > null_effect, matters=mean >= smallest_effect, is_below=high < smallest_effect, is_reversed=high < null_effect
    )
    return Judgement(n=blocks.n, mean=mean, sd=blocks.sd, low_95=low, high_95=high, verdict=verdict)


def _test(effect: Effect, significance: float) -> Judgement:
    """Test one claim for itself."""
    if effect.differences.empty:
        return Judgement(n=0)
    summary = summarize_differences(effect.differences)
    if not summary.sd:
        return Judgement(**asdict(summary))
    above = stats.ttest_1samp(effect.differences, effect.null_effect, alternative="greater")
    below = stats.ttest_1samp(effect.differences, effect.smallest_effect, alternative="less")
    design = {"nobs": summary.n, "alpha": significance, "alternative": "larger"}
    distance = (effect.smallest_effect - effect.null_effect) / summary.sd
    return Judgement(
        **asdict(summary),
        p_above=float(above.pvalue),
        p_below=float(below.pvalue),
        power=float(TTestPower().power(distance, **design)) if distance > 0 else None,
        detectable=effect.null_effect + summary.sd * float(TTestPower().solve_power(power=POWER_TO_DETECT, **design)),
    )


def _adjust(p_values: list[float | None]) -> list[float | None]:
    """Correct p-values for their number by Holm's method (1979). Those that do not exist stay so, and count as 1."""
    if not p_values:
        return []
    adjusted = multipletests([1.0 if p is None else p for p in p_values], method="holm")[1]
    return [None if p is None else float(holm) for p, holm in zip(p_values, adjusted, strict=True)]


def _verdict(*, is_above: bool, matters: bool, is_below: bool, is_reversed: bool) -> Verdict:
    """Decide: the effect is above the null effect, it is estimated to matter, is below what matters, is below the null effect."""
    if is_above and matters:
        return "supported"
    if is_above and is_below:
        return "true but negligible"
    if is_reversed:
        return "reversed"
    return "refuted" if is_below else "inconclusive"


def _log_ratio_of_medians(treatment: Times, reference: Times, axis: int = -1) -> Times:
    ratio: Times = np.log(np.median(treatment, axis=axis) / np.median(reference, axis=axis))
    return ratio
