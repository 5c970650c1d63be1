"""From the raw measures of trials to the effect of a claim within each seed."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from claims.judging.parameters import Claim, Term
from pipeline.common.statistics import summarize_differences


def measures_by_term(claim: Claim, terms: list[Term], name: str, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the measure of each term of an effect: a row for each seed, a column for each term, in their order."""
    columns: dict[int, pd.Series[float]] = {}
    for index, term in enumerate(terms):
        chosen = trials[(trials["arm"] == term.arm) & at_level(trials, term.level)]
        if claim.across is None:
            columns[index] = chosen.set_index("seed")[name]
        else:
            parameter, reduce = claim.across.parameter, claim.across.of
            columns[index] = pd.Series({seed: reduce(of_seed.set_index(parameter)[name]) for seed, of_seed in chosen.groupby("seed")})
    return pd.DataFrame(columns)


def weigh(claim: Claim, terms: list[Term], name: str, trials: pd.DataFrame) -> "pd.Series[float]":
    """Return Σ weight × measure of terms for each seed, NaN where a trial has no such measure, because it diverged."""
    measures = measures_by_term(claim, terms, name, trials)
    weighed: pd.Series[float] = measures.mul([term.weight for term in terms]).sum(axis="columns", skipna=False)
    return weighed


def at_level(table: pd.DataFrame, level: Mapping[str, object]) -> "pd.Series[bool]":
    """Return which rows have these values."""
    matches = pd.Series(data=True, index=table.index)
    for key, value in level.items():
        matches &= table[key] == as_read(table[key], value)
    return matches


def as_read(column: "pd.Series[Any]", value: object) -> object:
    """Return a value as a table's column has it: as text where the column also holds lists, or words beside numbers."""
    return value if is_numeric_dtype(column) else str(value)


def of_claim(claim: Claim, table: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of a study that a claim is about: those at the level that all its terms have in common."""
    return table[at_level(table, claim.level)]


def interval(differences: "pd.Series[float]") -> dict[str, float]:
    """Return mean, n and, where they exist, sd, low_95, high_95 and d_z of differences by seed; {} of none."""
    finite = differences[np.isfinite(differences)]
    if finite.empty:
        return {}
    return {name: value for name, value in asdict(summarize_differences(finite)).items() if value is not None}
