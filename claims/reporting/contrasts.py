"""Differences within seeds that explain the verdicts: what a difference between arms is made of. Nothing here is tested."""

import pandas as pd

from claims.judging.effects import interval, weigh
from claims.judging.kinds import AtMatchedLevel
from claims.judging.parameters import Claim
from pipeline.trials.notebook import BASELINE, BATCH_NORM

EARLY_PARTS = ["moving-average lag", "generalization gap", "training fit"]
TINY_PARTS = ["estimator bias", "moving-average residual", "training damage"]
WHOLE = "whole"


def finished(history: pd.DataFrame) -> pd.DataFrame:
    """Return the epochs of trials that did not diverge."""
    return history[~history["diverged"]]


def split_early_validation(core: pd.DataFrame) -> pd.DataFrame:
    """Split BN − no BN in validation accuracy into three parts, for each epoch and seed that finished in both arms.

    The parts add up to the whole: what BN's moving averages cost against recalibrated statistics; how much more
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
    """Return the column of both arms side by side. An arm without trials has no values."""
    return history.pivot_table(index=index, columns="arm", values=column).reindex(columns=[BASELINE, BATCH_NORM])


def last_epoch(trials: pd.DataFrame, parameter: str) -> pd.DataFrame:
    """Return the last epoch of each trial of a study that varies a parameter."""
    return trials[trials["epoch"] == trials.groupby(["arm", parameter, "seed"])["epoch"].transform("max")]


def accuracies_by_batch_size(tiny: pd.DataFrame) -> pd.DataFrame:
    """Return validation accuracy after the last epoch, by batch size and seed: no BN, and BN with each kind of statistics."""
    last = last_epoch(finished(tiny), "batch_size")
    stored, unbiased, recalibrated = (
        _by_arm(last, f"val_accuracy{how}", ["batch_size", "seed"])[BATCH_NORM] for how in ("", "_unbiased", "_recalibrated")
    )
    without = _by_arm(last, "val_accuracy", ["batch_size", "seed"])[BASELINE]
    return pd.DataFrame({"no BN": without, "stored": stored, "unbiased": unbiased, "recalibrated": recalibrated})


def split_tiny_batches(accuracies: pd.DataFrame, large: int, tiny: int) -> pd.DataFrame:
    """Split, by seed, what BN loses against no BN from batches of `large` to batches of `tiny` into three parts.

    The parts add up to the whole: the bias of the variances that Keras keeps (which Bessel's correction removes), what
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


def effect_with(statistics: str, claim: Claim, name: str, trials: list[pd.DataFrame], labels: list[str]) -> dict[str, float]:
    """Return the effect of a claim as it would be with other statistics than the stored ones: `recalibrated` or `batch_statistics`.

    `trials` are whole histories. {} if the claim has no such measure, or nothing is left.
    """
    measure = claim.measure
    if measure is None or isinstance(measure, AtMatchedLevel) or f"{measure.column}_{statistics}" not in trials[0]:
        return {}
    otherwise = measure.model_copy(update={"column": f"{measure.column}_{statistics}"})
    rows = [{**{label: trial[label].iloc[0] for label in labels}, name: otherwise.of_trial(trial)} for trial in trials]
    return interval(weigh(claim, claim.effect, name, pd.DataFrame(rows)))
