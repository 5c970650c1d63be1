"""Differences within seeds that explain the verdicts: what a claim compares, and what a difference is made of."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from claims.judging.measures import AtMatchedLevel
from claims.studies.parameters import Claim, Term
from pipeline.common.statistics import summarize_differences
from pipeline.pages.wording import Figures
from pipeline.trials.notebook import BASELINE, BATCH_NORM

EARLY_PARTS = ["moving-average lag", "generalization gap", "training fit"]
TINY_PARTS = ["estimator bias", "moving-average residual", "training damage"]
WHOLE = "whole"


def interval(differences: "pd.Series[float]") -> Figures:
    """Mean, n and, where they exist, sd, low_95 and high_95 of differences by seed; {} of none."""
    finite = differences[np.isfinite(differences)]
    if finite.empty:
        return {}
    return {name: value for name, value in asdict(summarize_differences(finite)).items() if value is not None}


def finished(history: pd.DataFrame) -> pd.DataFrame:
    """The epochs of trials that did not diverge."""
    return history[~history["diverged"]]


def measures_by_term(claim: Claim, terms: list[Term], name: str, trials: pd.DataFrame) -> pd.DataFrame:
    """Measure of each term of an effect: a row for each seed, a column for each term, in their order."""
    return pd.DataFrame({index: _measures(claim, term, name, trials) for index, term in enumerate(terms)})


def weigh(claim: Claim, terms: list[Term], name: str, trials: pd.DataFrame) -> "pd.Series[float]":
    """Give Σ weight × measure of terms for each seed, NaN where a trial has no such measure, because it diverged."""
    measures = measures_by_term(claim, terms, name, trials)
    weighed: pd.Series[float] = measures.mul([term.weight for term in terms]).sum(axis="columns", skipna=False)
    return weighed


def _measures(claim: Claim, term: Term, name: str, trials: pd.DataFrame) -> "pd.Series[float]":
    chosen = trials[(trials["arm"] == term.arm) & at_level(trials, term.level)]
    if claim.across is None:
        return chosen.set_index("seed")[name]
    return pd.Series({seed: claim.across.of(of_seed.set_index(claim.across.parameter)[name]) for seed, of_seed in chosen.groupby("seed")})


def at_level(table: pd.DataFrame, level: dict[str, object]) -> "pd.Series[bool]":
    """Which rows have these values."""
    matches = pd.Series(data=True, index=table.index)
    for key, value in level.items():
        matches &= table[key] == as_read(table[key], value)
    return matches


def as_read(column: "pd.Series[Any]", value: object) -> object:
    """A value as a table's column has it: as text where the column also holds lists, or words beside numbers."""
    return value if is_numeric_dtype(column) else str(value)


def of_claim(claim: Claim, table: pd.DataFrame) -> pd.DataFrame:
    """The trials of a study that a claim is about: those at the level that all its terms have in common."""
    return table[at_level(table, claim.level)]


def split_early_validation(core: pd.DataFrame) -> pd.DataFrame:
    """Take BN − no BN in validation accuracy apart, for each epoch and seed that finished in both arms.

    The three parts add up to the whole: what BN's moving averages cost against recalibrated statistics; how much more
    (or less) BN loses from training to validation images, recalibrated; how much better it fits the training images.
    """
    stored, recalibrated, trained, trained_recalibrated = (
        _by_arm(finished(core), column, ["epoch", "seed"])
        for column in ("val_accuracy", "val_accuracy_recalibrated", "train_eval_accuracy", "train_eval_accuracy_recalibrated")
    )
    parts = {
        WHOLE: stored[BATCH_NORM] - stored[BASELINE],
        EARLY_PARTS[0]: stored[BATCH_NORM] - recalibrated[BATCH_NORM],
        EARLY_PARTS[1]: (recalibrated - trained_recalibrated)[BATCH_NORM] - (stored - trained)[BASELINE],
        EARLY_PARTS[2]: trained_recalibrated[BATCH_NORM] - trained[BASELINE],
    }
    return pd.DataFrame(parts).dropna()


def _by_arm(history: pd.DataFrame, column: str, index: list[str]) -> pd.DataFrame:
    """The column of both arms side by side; an arm of which nothing is there has no values."""
    return history.pivot_table(index=index, columns="arm", values=column).reindex(columns=[BASELINE, BATCH_NORM])


def intervals_by_epoch(values: "pd.Series[float]") -> pd.DataFrame:
    """Mean, low_95 and high_95 over seeds, NaN where there are none, of values by epoch and seed."""
    found = {epoch: interval(of_epoch) for epoch, of_epoch in values.groupby(level="epoch")}
    return pd.DataFrame.from_dict(found, orient="index").reindex(columns=["mean", "low_95", "high_95"])


def accuracies_by_batch_size(tiny: pd.DataFrame) -> pd.DataFrame:
    """Validation accuracy after the last epoch, by batch size and seed: no BN, and BN with each kind of statistics."""
    trials = finished(tiny)
    last = trials[trials["epoch"] == trials.groupby(["arm", "batch_size", "seed"])["epoch"].transform("max")]
    stored, unbiased, recalibrated = (
        _by_arm(last, f"val_accuracy{how}", ["batch_size", "seed"]) for how in ("", "_unbiased", "_recalibrated")
    )
    return pd.DataFrame(
        {
            "no BN": stored[BASELINE],
            "stored": stored[BATCH_NORM],
            "unbiased": unbiased[BATCH_NORM],
            "recalibrated": recalibrated[BATCH_NORM],
        }
    )


def split_tiny_batches(accuracies: pd.DataFrame, large: int, tiny: int) -> pd.DataFrame:
    """Take apart, by seed, what BN loses against no BN from batches of `large` to batches of `tiny`.

    The three parts add up to the whole: the bias of the variances that Keras keeps (which Bessel's correction removes), what
    else is wrong with the moving averages (which recalibration removes), and what training itself does worse.
    """
    costs = pd.DataFrame(
        {
            WHOLE: accuracies["no BN"] - accuracies["stored"],
            TINY_PARTS[0]: accuracies["unbiased"] - accuracies["stored"],
            TINY_PARTS[1]: accuracies["recalibrated"] - accuracies["unbiased"],
            TINY_PARTS[2]: accuracies["no BN"] - accuracies["recalibrated"],
        }
    )
    of_tiny, of_large = (costs[costs.index.get_level_values("batch_size") == size].droplevel("batch_size") for size in (tiny, large))
    return (of_tiny - of_large).dropna()


def at_best_level(history: pd.DataFrame, parameter: str, column: str) -> tuple[dict[str, object], pd.DataFrame]:
    """Find each arm's best level by its mean over seeds after the last epoch.

    Returns:
        The best level of each arm, and the values there: a row for each seed, a column for each arm.
    """
    last = history[history["epoch"] == history.groupby(["arm", parameter, "seed"])["epoch"].transform("max")]
    means = last.groupby(["arm", parameter], sort=False)[column].mean()
    best: dict[str, object] = {str(arm): of_arm.droplevel("arm").idxmax() for arm, of_arm in means.groupby(level="arm", sort=False)}
    values = {arm: last[(last["arm"] == arm) & (last[parameter] == level)].set_index("seed")[column] for arm, level in best.items()}
    return best, pd.DataFrame(values)


def last_epochs(history: pd.DataFrame, column: str, epochs: int) -> pd.DataFrame:
    """Mean over the last epochs of trials that did not diverge: a row for each seed, a column for each arm."""
    trials = finished(history).sort_values("epoch", kind="stable").groupby(["arm", "seed"], sort=False)[column]
    return trials.apply(lambda values: values.tail(epochs).mean()).unstack("arm")  # noqa: PD010 - by arm


def by_size_trained_on(continued: pd.DataFrame, sizes: list[int], epochs_each: int, column: str, epochs: int) -> pd.DataFrame:
    """Mean over the last epochs at each batch size of models that trained on through `sizes`: seeds down, sizes across."""
    stage = (continued["epoch"] - 1) // epochs_each
    tail = continued.assign(size=stage.map(dict(enumerate(sizes))))[(continued["epoch"] - 1) % epochs_each >= epochs_each - epochs]
    means = tail.groupby(["seed", "size"])[column].apply(lambda values: values.mean())  # as `last_epochs` has it, to the last bit
    return means.unstack("size").reindex(columns=sizes)  # noqa: PD010 - by size


def effect_with(statistics: str, claim: Claim, name: str, trials: list[pd.DataFrame], labels: list[str]) -> Figures:
    """The effect of a claim, had it been measured with other statistics than the stored ones, `recalibrated` or `batch_statistics`.

    `trials` are whole histories; {} where it makes no sense or nothing is left.
    """
    measure = claim.measure
    if measure is None or isinstance(measure, AtMatchedLevel) or f"{measure.column}_{statistics}" not in trials[0]:
        return {}
    otherwise = measure.model_copy(update={"column": f"{measure.column}_{statistics}"})
    rows = [{**{label: trial[label].iloc[0] for label in labels}, name: otherwise.of_trial(trial)} for trial in trials]
    return interval(weigh(claim, claim.effect, name, pd.DataFrame(rows)))
