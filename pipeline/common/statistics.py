"""Means with their spread, and paired differences with their Student t interval.

Nothing is left out silently: a value that is not finite, or a seed without its pair, is an error.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

CONFIDENCE = 0.95
ROUNDING = 1e-9  # of values around 1 or of larger ones: above what float64 rounds, and below any difference that was measured


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (divisor n − 1) of `n` values; one value has no `sd`."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """Treatment minus reference over `n` pairs, in the values' unit.

    `low_95` and `high_95` bound the Student t interval mean ± t(0.975, n − 1) · sd / √n; `d_z` is mean / sd
    (Cohen 1988, effect size for paired designs). One pair has none of these, and equal differences have no `d_z`.
    """

    mean: float
    sd: float | None
    low_95: float | None
    high_95: float | None
    d_z: float | None
    n: int


def summarize(values: "pd.Series[float]") -> Summary:
    """Summarize values, one per seed.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    _check_finite(values)
    return Summary(float(values.mean()), _sample_sd(values), len(values))


def paired_difference(treatment: "pd.Series[float]", reference: "pd.Series[float]") -> PairedDifference:
    """Compare two arms whose values are indexed by seed.

    Raises:
        ValueError: the seeds differ, there are none, or a value is not finite.
    """
    if set(treatment.index) != set(reference.index):
        raise ValueError(f"seeds without a pair: {sorted(set(treatment.index) ^ set(reference.index))}")
    return summarize_differences(treatment - reference.reindex(treatment.index))


def summarize_differences(differences: "pd.Series[float]") -> PairedDifference:
    """Summarize the differences of pairs; those that differ by float64's rounding alone count as equal.

    Raises:
        ValueError: there is no difference, or one is not finite.
    """
    _check_finite(differences)
    mean, sd, n = float(differences.mean()), _sample_sd(differences), len(differences)
    if sd is None:
        return PairedDifference(mean, None, None, None, None, n)
    if np.ptp(differences) <= ROUNDING * max(1.0, differences.abs().max()):
        return PairedDifference(mean, 0.0, mean, mean, None, n)
    from scipy import stats  # here, since it takes half a second to import and most stages only summarize

    interval = stats.ttest_1samp(differences, 0).confidence_interval(CONFIDENCE)
    return PairedDifference(mean, sd, float(interval.low), float(interval.high), mean / sd, n)


def _sample_sd(values: "pd.Series[float]") -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _check_finite(values: "pd.Series[float]") -> None:
    if values.empty or not np.isfinite(values).all():
        raise ValueError("needs at least one value, all of them finite")
