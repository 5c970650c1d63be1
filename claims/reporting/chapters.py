"""What the report tells beyond the ledger: for each chapter, the facts that its template speaks of, and its figures as SVG.

A chapter whose study or claim is not declared is left out.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from claims.judging import contrasts
from claims.judging.contrasts import interval
from claims.judging.measures import LogEpochsToReach
from claims.reporting import figures_mechanisms, figures_topics
from claims.reporting.findings import Findings
from pipeline.common.statistics import summarize
from pipeline.pages.plotting import draw
from pipeline.pages.wording import Figures
from pipeline.training.config import updates_per_epoch
from pipeline.trials.notebook import BASELINE, BATCH_NORM

CORE, LEARNING_RATE, CONTINUED = "core", "learning_rate", "continued_training"
FIRST_EPOCHS = LAST_EPOCHS = 3
TABLED_EPOCHS = (1, 2, 3, 5, 10)


class Chapter(NamedTuple):
    """What a template speaks of, and figures by name."""

    facts: dict[str, Any]
    figures: dict[str, str]


def has_both_arms(findings: Findings, study: str) -> bool:
    """Whether a study is declared and compares no BN with BN, at one level."""
    return has_one_level(findings, study) and {BASELINE, BATCH_NORM} <= {*findings.parameters.studies[study].arms}


def has_one_level(findings: Findings, study: str, *, beside: str = "") -> bool:
    """Whether a study is declared and varies no parameter, or none beside one: over further levels a mean would say nothing."""
    declared = findings.parameters.studies.get(study)
    return declared is not None and all(len(values) == 1 for key, values in declared.grid.items() if key != beside)


def summary(values: "pd.Series[float]") -> Figures:
    """Mean, n and, from two values on, sd; {} of none."""
    finite = values.dropna()
    if finite.empty:
        return {}
    found = summarize(finite)
    return {"mean": found.mean, "n": found.n, **({"sd": found.sd} if found.sd is not None else {})}


def early_validation(findings: Findings) -> Chapter | None:
    """Why BN looks worse, or does not, on validation images in the first epochs."""
    if not has_both_arms(findings, CORE):
        return None
    parts = contrasts.split_early_validation(findings.histories[CORE])
    if parts.empty:
        return None
    by_epoch = {int(str(epoch)): {part: interval(rows[part]) for part in parts} for epoch, rows in parts.groupby(level="epoch")}
    last = max(by_epoch)
    first = parts[parts.index.get_level_values("epoch") <= FIRST_EPOCHS].groupby(level="seed").mean()
    facts = {
        "by_epoch": by_epoch,
        "tabled": [epoch for epoch in TABLED_EPOCHS if epoch < last] + [last],
        "first_epochs": min(FIRST_EPOCHS, last),
        "first": {part: interval(first[part]) for part in parts},
        "first_without_lag": interval(first[contrasts.WHOLE] - first[contrasts.EARLY_PARTS[0]]),
        "lower": [epoch for epoch, of in by_epoch.items() if of[contrasts.WHOLE].get("high_95", 0) < 0],
        "parts": contrasts.EARLY_PARTS,
        "whole": contrasts.WHOLE,
        "last": last,
    }
    return Chapter(facts, {"early_validation": draw(figures_topics.early_validation, parts)})


def speed(findings: Findings) -> Chapter | None:
    """Accuracy per epoch, update and second, and the step time at which fewer epochs would no longer pay."""
    sooner, overhead, claim = findings.ledger.get("B2a"), findings.ledger.get("L1"), findings.parameters.claims.get("B2a")
    if not has_both_arms(findings, CORE) or sooner is None or overhead is None or claim is None:
        return None
    if claim.study != CORE or not isinstance(claim.measure, LogEpochsToReach):
        return None
    steps = findings.timing[findings.timing["what"] == "training_step"]
    milliseconds = {str(arm): float(times.median()) for arm, times in steps.groupby("arm")["milliseconds"]}
    config = findings.parameters.trials.trial_config(BATCH_NORM, {}, seed=0)
    updates = updates_per_epoch(findings.training_images, config.batch_size)
    epochs = {arm: of_arm["B2a"].map(math.exp) for arm, of_arm in findings.trials[CORE].groupby("arm")}
    last = {arm: findings.parameters.trials.trial_config(str(arm), {}, seed=0).total_epochs for arm in epochs}
    facts = {
        "break_even": sooner.effect,
        "measured": overhead.effect,
        "level": claim.measure.level,
        "updates": updates,
        "milliseconds": milliseconds,
        "batch_size": config.batch_size,
        "epochs": {arm: summary(to_level) for arm, to_level in epochs.items()},
        "never": {arm: int((to_level > last[arm] + 0.999).sum()) for arm, to_level in epochs.items()},
    }
    return Chapter(facts, {"speed": draw(figures_topics.speed, findings.histories[CORE], updates, milliseconds, claim.measure.level)})


def own_error(findings: Findings) -> Chapter | None:
    """The notebook's own error: one model trained on through the batch sizes, against fresh models."""
    if not has_one_level(findings, CONTINUED):
        return None
    configs = {arm: findings.parameters.trials.trial_config(arm, {}, seed=0) for arm in findings.parameters.studies[CONTINUED].arms}
    continued = next((arm for arm, config in configs.items() if config.earlier_batch_sizes), None)
    if continued is None:
        return None
    sizes = [*configs[continued].earlier_batch_sizes, configs[continued].batch_size]
    fresh = {config.batch_size: arm for arm, config in configs.items() if not config.earlier_batch_sizes}
    if not set(sizes) <= set(fresh):
        return None
    fresh = {size: fresh[size] for size in sizes}
    history, each = findings.histories[CONTINUED], configs[continued].epochs
    metrics = {metric: _fake_effect(history, continued, fresh, each, metric) for metric in ("val_accuracy", "train_eval_accuracy")}
    facts = {"sizes": sizes, "epochs_each": each, "epochs": min(LAST_EPOCHS, each), "metrics": metrics}
    return Chapter(facts, {"continued_training": draw(figures_topics.continued_training, history, continued, fresh, each)})


def _fake_effect(history: pd.DataFrame, continued: str, fresh: Mapping[int, str], epochs_each: int, metric: str) -> dict[str, Any]:
    trials, sizes = contrasts.finished(history), list(fresh)
    on = contrasts.by_size_trained_on(trials[trials["arm"] == continued], sizes, epochs_each, metric, LAST_EPOCHS)
    by_arm = contrasts.last_epochs(history, metric, LAST_EPOCHS)
    alone = pd.DataFrame({size: by_arm[arm] for size, arm in fresh.items() if arm in by_arm}).reindex(columns=sizes)
    apparent, real = on[sizes[-1]] - on[sizes[0]], alone[sizes[-1]] - alone[sizes[0]]
    return {
        "continued": {size: summary(on[size]) for size in sizes},
        "fresh": {size: summary(alone[size]) for size in sizes},
        "difference": {size: interval(on[size] - alone[size]) for size in sizes},
        "apparent": interval(apparent),
        "real": interval(real),
        "fake": interval(apparent - real),
    }


def arms(findings: Findings) -> Chapter | None:
    """Every arm of the core study beside the one without BN that is trained alike."""
    if not has_one_level(findings, CORE) or BASELINE not in findings.parameters.studies[CORE].arms:
        return None
    history, names = findings.histories[CORE], findings.parameters.studies[CORE].arms
    metrics = ("train_eval_accuracy", "val_accuracy", "val_accuracy_recalibrated", "val_accuracy_batch_statistics")
    last = {metric: contrasts.last_epochs(history, metric, LAST_EPOCHS).reindex(columns=names) for metric in metrics}
    references, trials = {arm: _reference(findings, arm, names) for arm in names}, findings.trials[CORE]
    facts = {
        "names": names,
        "references": references,
        "epochs": LAST_EPOCHS,
        "levels": {arm: {metric: summary(last[metric][arm]) for metric in metrics} for arm in names},
        "differences": {
            arm: {metric: interval(last[metric][arm] - last[metric][reference]) for metric in metrics}
            for arm, reference in references.items()
        },
        "diverged": {arm: int(trials.loc[trials["arm"] == arm, "diverged"].sum()) for arm in names},
        "n": len(findings.parameters.studies[CORE].seeds),
    }
    return Chapter(facts, {"all_arms": draw(figures_topics.all_arms, history, names)})


def _reference(findings: Findings, arm: str, names: list[str]) -> str:
    """The arm that is not normalized and has the same optimizer and learning rate, or else the baseline."""

    def optimizer(name: str) -> tuple[str, float]:
        config = findings.parameters.trials.trial_config(name, {}, seed=0)
        return config.optimizer, config.learning_rate

    plain = [name for name in names if findings.parameters.trials.trial_config(name, {}, seed=0).normalization == "none"]
    return next((name for name in plain if optimizer(name) == optimizer(arm)), BASELINE)


def best_learning_rates(findings: Findings) -> Chapter | None:
    """Each arm at the learning rate that is best for it."""
    if not has_one_level(findings, LEARNING_RATE, beside="learning_rate") or "learning_rate" not in findings.histories[LEARNING_RATE]:
        return None
    history, study, column = findings.histories[LEARNING_RATE], findings.parameters.studies[LEARNING_RATE], "val_accuracy_recalibrated"
    last = history[history["epoch"] == history.groupby(["arm", "learning_rate", "seed"])["epoch"].transform("max")]
    best, values = contrasts.at_best_level(history, "learning_rate", column)
    facts = {
        "best": best,
        "rates": study.grid["learning_rate"],
        "epochs": int(history["epoch"].max()),
        "accuracy": {arm: summary(values[arm]) for arm in values},
        "difference": {arm: interval(values[arm] - values[BASELINE]) for arm in values if BASELINE in values},
    }
    return Chapter(facts, {"learning_rates": draw(figures_topics.learning_rates, last, study, column)})


def mechanisms(findings: Findings) -> Chapter | None:
    """What was probed inside one pair of networks."""
    tables = findings.mechanisms
    names = ("drift", "gradient_shift", "landscape", "units")
    by_arm = {name: {arm: table[table["arm"] == arm] for arm in (BASELINE, BATCH_NORM)} for name, table in tables.items() if name in names}
    if any(rows.empty for of_arm in by_arm.values() for rows in of_arm.values()):
        return None
    drift, shift, landscape, units = (by_arm[name] for name in names)
    facts = {
        "drift": {column: {arm: float(rows[column].mean()) for arm, rows in drift.items()} for column in ("mean_shift", "log_sd_shift")},
        "shift": {column: {arm: float(rows[column].mean()) for arm, rows in shift.items()} for column in ("relative_change", "cosine")},
        "directions": {
            str(direction): {arm: _along(rows[rows["direction"] == direction]) for arm, rows in landscape.items()}
            for direction in dict.fromkeys(tables["landscape"]["direction"])
        },
        "units": {
            column: {arm: float(rows.loc[rows["step"] == rows["step"].max(), column].mean()) for arm, rows in units.items()}
            for column in ("dead", "nearly_dead", "always_on")
        },
        "last_step": int(tables["units"]["step"].max()),
        "settings": findings.parameters.mechanisms,
    }
    return Chapter(facts, {name: draw(getattr(figures_mechanisms, name), tables[name]) for name in names})


def _along(rows: pd.DataFrame) -> dict[str, float]:
    by_step = rows.groupby("step")
    loss_range = by_step["loss"].max() - by_step["loss"].min()
    return {"loss_range": float(loss_range.mean()), "smoothness": float(by_step["effective_smoothness"].max().mean())}


CHAPTERS: dict[str, Callable[[Findings], Chapter | None]] = {
    "early_validation": early_validation,
    "speed": speed,
    "own_error": own_error,
    "arms": arms,
    "best_learning_rates": best_learning_rates,
    "mechanisms": mechanisms,
}
