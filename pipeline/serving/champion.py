"""Which model is served, and whether it may replace the one before: told by validation, never by the test set."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from pipeline.common.statistics import Summary, summarize
from pipeline.training.result import diverged


@dataclass(frozen=True)
class Candidate:
    """The arm that validates best, by its mean over seeds, and the seed that validates best within it."""

    arm: str
    seed: int
    val_accuracy: float
    arm_val_accuracy: Summary


@dataclass(frozen=True)
class Champion:
    """What the registry says of the model that is served now; of one that was registered by hand, the version alone."""

    version: str
    data_md5: str | None
    arm_val_accuracy: Summary | None


def choose(histories: Mapping[str, pd.DataFrame]) -> Candidate:
    """Choose among arms by validation accuracy after the last epoch; `histories` has a row per seed and epoch of each.

    Diverged trials do not count, and an arm without any goes before one that has some; not all may have. Among equals the
    first wins.
    """
    finals = {arm: _final_accuracies(history) for arm, history in histories.items()}
    lost = {arm: histories[arm]["seed"].nunique() - len(finals[arm]) for arm in finals}
    arms = {arm: summarize(pd.Series(accuracies)) for arm, accuracies in finals.items() if accuracies}
    arm = min(arms, key=lambda arm: (lost[arm], -arms[arm].mean))
    seed = max(finals[arm], key=lambda seed: finals[arm][seed])
    return Candidate(arm, seed, finals[arm][seed], arms[arm])


def _final_accuracies(history: pd.DataFrame) -> dict[int, float]:
    """Validation accuracy after the last epoch of each seed that did not diverge."""
    trials = {int(seed): history[history["seed"] == seed] for seed in history["seed"].unique()}
    return {seed: float(trial["val_accuracy"].iloc[-1]) for seed, trial in trials.items() if not diverged(trial)}


def objections(candidate: Candidate, linear_val_accuracy: float, data_md5: str, champion: Champion | None) -> list[str]:
    """Say why the candidate may not become champion; nothing if it may.

    Its arm's mean must beat a linear classifier on the pixels, and fall behind the present champion's by no more than the
    seeds' spread: the larger of the two arms' sample standard deviations.
    """
    mean = candidate.arm_val_accuracy.mean
    found = []
    if mean <= linear_val_accuracy:
        found.append(f"it validates at {mean:.2%} (mean over seeds), and a linear classifier on the pixels at {linear_val_accuracy:.2%}")
    if champion is not None:
        found += _objections_of(champion, candidate, data_md5)
    return found


def _objections_of(champion: Champion, candidate: Candidate, data_md5: str) -> list[str]:
    if champion.arm_val_accuracy is None or champion.data_md5 != data_md5:
        known = "learned from other data or another split" if champion.data_md5 else "was registered by hand"
        return [
            f"the present champion, version {champion.version}, {known}, so that the two cannot be compared; "
            "take the alias from it in the MLflow UI if it should go"
        ]
    before, now = champion.arm_val_accuracy, candidate.arm_val_accuracy
    spread = max(before.sd or 0.0, now.sd or 0.0)
    if now.mean >= before.mean - spread:
        return []
    behind = (
        f"it validates at {now.mean:.2%}, and the present champion, version {champion.version}, at {before.mean:.2%} (means over seeds)"
    )
    return [f"{behind}: further behind than the seeds' spread of {100 * spread:.2f} points"]
