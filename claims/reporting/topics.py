"""What the report says beside the verdicts: for each topic the facts that its template uses, and its figures as SVG.

`TOPICS` are sections of their own, `DETAILS` belong to single claims. A topic is left out if its study or claim is not declared.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from claims.judging.effects import at_level, interval, of_claim
from claims.judging.inference import judge_timing
from claims.judging.kinds import LargestUsable, LogEpochsToReach
from claims.judging.parameters import Claim
from claims.reporting import contrasts, figures_topics
from claims.reporting.figures import varied_parameter
from claims.reporting.results import Results
from pipeline.common.statistics import summarize
from pipeline.pages.plotting import draw
from pipeline.trials.notebook import BASELINE, BATCH_NORM

CORE, LEARNING_RATE, CONTINUED = "core", "learning_rate", "continued_training"
FIRST_EPOCHS = LAST_EPOCHS = 3
TABLED_EPOCHS = (1, 2, 3, 5, 10)
TIMED_PAIRS = (
    ("training_step", BATCH_NORM, BASELINE),
    ("forward_and_backward", BATCH_NORM, BASELINE),
    ("inference", BATCH_NORM, BASELINE),
    ("inference", "batch_norm_folded", BASELINE),
    ("inference", "batch_norm_folded", BATCH_NORM),
)

Facts = dict[str, Any]


class Topic(NamedTuple):
    """What a template uses, and figures by name."""

    facts: Facts
    figures: dict[str, str]


def summary(values: "pd.Series[float]") -> dict[str, float]:
    """Return mean, n and, from two values on, sd; {} of none."""
    finite = values.dropna()
    if finite.empty:
        return {}
    found = summarize(finite)
    return {"mean": found.mean, "n": found.n, **({"sd": found.sd} if found.sd is not None else {})}


def _has(results: Results, study: str, *arms: str, varied: str = "") -> bool:
    """Return whether a study has these arms and one level, or varies `varied` alone: over further levels a mean says nothing."""
    declared = results.studies.declared.get(study)
    if declared is None or not {*arms} <= {*declared.arms} or (varied and varied not in declared.grid):
        return False
    return all(len(values) == 1 for key, values in declared.grid.items() if key != varied)


def _last_epochs(trials: pd.DataFrame, column: str, by: str) -> pd.DataFrame:
    """Return the mean of a column over the last epochs of each trial: a row for each seed, a column for each arm, or what else it is by."""
    means = trials.groupby([by, "seed"]).tail(LAST_EPOCHS).groupby([by, "seed"])[column].mean()
    return means.unstack(by)  # noqa: PD010 - its index has these two levels


def early_validation(results: Results) -> Topic | None:
    """Why BN looks worse, or does not, on validation images in the first epochs."""
    if not _has(results, CORE, BASELINE, BATCH_NORM) or (parts := contrasts.split_early_validation(results.histories[CORE])).empty:
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
    return Topic(facts, {"early_validation": draw(figures_topics.early_validation, parts)})


def speed(results: Results) -> Topic | None:
    """Accuracy per epoch, update and second, and the step time at which fewer epochs would no longer pay."""
    claim, overhead = results.sections.claims.get("B2a"), results.verdicts.get("L1")
    if overhead is None or claim is None or claim.study != CORE or not isinstance(claim.measure, LogEpochsToReach):
        return None
    if not _has(results, CORE, BASELINE, BATCH_NORM):
        return None
    steps = results.timing[results.timing["what"] == "training_step"]
    milliseconds, level = steps.groupby("arm")["milliseconds"].median().to_dict(), claim.measure.level
    batch_size = results.studies.settings(BATCH_NORM)["batch_size"]
    updates = math.ceil(results.training_images / batch_size)
    epochs = {str(arm): of_arm["B2a"].map(math.exp) for arm, of_arm in results.trials[CORE].groupby("arm")}
    facts = {
        "break_even": results.verdicts["B2a"].effect,
        "measured": overhead.effect,
        "level": level,
        "updates": updates,
        "milliseconds": milliseconds,
        "batch_size": batch_size,
        "epochs": {arm: summary(to_level) for arm, to_level in epochs.items()},
        "never": {arm: int((to_level > results.studies.epochs(arm) + 0.999).sum()) for arm, to_level in epochs.items()},
    }
    return Topic(facts, {"speed": draw(figures_topics.speed, results.histories[CORE], updates, milliseconds, level)})


def own_error(results: Results) -> Topic | None:
    """The notebook's own error: one model trained on through the batch sizes, against fresh models."""
    if not _has(results, CONTINUED):
        return None
    settings = {arm: results.studies.settings(arm) for arm in results.studies.declared[CONTINUED].arms}
    by_sizes = {(*of_arm["earlier_batch_sizes"], of_arm["batch_size"]): arm for arm, of_arm in settings.items()}
    sizes = max(by_sizes, key=len)
    if len(sizes) == 1 or not all((size,) in by_sizes for size in sizes):
        return None
    trials, each = contrasts.finished(results.histories[CONTINUED]), settings[by_sizes[sizes]]["epochs"]
    continued = trials[trials["arm"] == by_sizes[sizes]]
    stage, epoch = (continued["epoch"] - 1) // each, (continued["epoch"] - 1) % each + 1
    continued = continued.assign(batch_size=stage.map(dict(enumerate(sizes))), epoch=epoch)
    fresh = trials[trials["arm"].isin([by_sizes[size,] for size in sizes])]
    metrics = {}
    for metric in ("val_accuracy", "train_eval_accuracy"):
        on, alone = (_last_epochs(of, metric, "batch_size").reindex(columns=[*sizes]) for of in (continued, fresh))
        apparent, real = on[sizes[-1]] - on[sizes[0]], alone[sizes[-1]] - alone[sizes[0]]
        metrics[metric] = {
            "continued": {size: summary(on[size]) for size in sizes},
            "fresh": {size: summary(alone[size]) for size in sizes},
            "difference": {size: interval(on[size] - alone[size]) for size in sizes},
            "apparent": interval(apparent),
            "real": interval(real),
            "fake": interval(apparent - real),
        }
    facts = {"sizes": sizes, "epochs_each": each, "epochs": min(LAST_EPOCHS, each), "metrics": metrics}
    return Topic(facts, {"continued_training": draw(figures_topics.continued_training, continued, fresh, sizes)})


def arms(results: Results) -> Topic | None:
    """Every arm of the core study beside the arm without normalization that has the same optimizer and learning rate, or the baseline."""
    if not _has(results, CORE, BASELINE):
        return None
    study, trials = results.studies.declared[CORE], contrasts.finished(results.histories[CORE])
    settings = {arm: results.studies.settings(arm) for arm in study.arms}
    alike = {arm: (of_arm["optimizer"], of_arm["learning_rate"]) for arm, of_arm in settings.items()}
    plain = [arm for arm in study.arms if settings[arm]["normalization"] == "none"]
    references = {arm: next((other for other in plain if alike[other] == alike[arm]), BASELINE) for arm in study.arms}
    metrics = ("train_eval_accuracy", "val_accuracy", "val_accuracy_recalibrated", "val_accuracy_batch_statistics")
    last = {metric: _last_epochs(trials, metric, "arm").reindex(columns=study.arms) for metric in metrics}
    facts = {
        "names": study.arms,
        "references": references,
        "epochs": LAST_EPOCHS,
        "levels": {arm: {metric: summary(last[metric][arm]) for metric in metrics} for arm in study.arms},
        "differences": {
            arm: {metric: interval(last[metric][arm] - last[metric][reference]) for metric in metrics}
            for arm, reference in references.items()
        },
        "diverged": results.trials[CORE].groupby("arm")["diverged"].sum().to_dict(),
        "n": len(study.seeds),
    }
    return Topic(facts, {"all_arms": draw(figures_topics.all_arms, trials, study.arms)})


def best_learning_rates(results: Results) -> Topic | None:
    """Each arm at the learning rate that is best for it by its mean over seeds after the last epoch."""
    if not _has(results, LEARNING_RATE, varied="learning_rate"):
        return None
    study, column = results.studies.declared[LEARNING_RATE], "val_accuracy_recalibrated"
    last = contrasts.last_epoch(results.histories[LEARNING_RATE], "learning_rate")
    by_arm = {arm: last[last["arm"] == arm] for arm in study.arms}
    best = {arm: of_arm.groupby("learning_rate")[column].mean().idxmax() for arm, of_arm in by_arm.items()}
    at_best = {arm: of_arm[of_arm["learning_rate"] == best[arm]].set_index("seed")[column] for arm, of_arm in by_arm.items()}
    facts = {
        "best": best,
        "rates": study.grid["learning_rate"],
        "epochs": int(last["epoch"].max()),
        "accuracy": {arm: summary(of_arm) for arm, of_arm in at_best.items()},
        "difference": {arm: interval(of_arm - at_best[BASELINE]) for arm, of_arm in at_best.items() if BASELINE in at_best},
    }
    return Topic(facts, {"learning_rates": draw(figures_topics.learning_rates, last, study, column)})


def mechanisms(results: Results) -> Topic:
    """What was probed inside one pair of networks."""

    def means(probes: pd.DataFrame, *columns: str) -> Facts:
        return {column: probes.groupby("arm")[column].mean().to_dict() for column in columns}

    tables = {name: results.mechanisms[name] for name in ("drift", "gradient_shift", "landscape", "units")}
    by_step = tables["landscape"].groupby(["direction", "arm", "step"], sort=False)
    loss = by_step["loss"].agg(["min", "max"])
    found = pd.DataFrame({"loss_range": loss["max"] - loss["min"], "smoothness": by_step["effective_smoothness"].max()})
    last_step = int(tables["units"]["step"].max())
    facts = {
        "drift": means(tables["drift"], "mean_shift", "log_sd_shift"),
        "shift": means(tables["gradient_shift"], "relative_change", "cosine"),
        "directions": {direction: means(rows, "loss_range", "smoothness") for direction, rows in found.groupby("direction", sort=False)},
        "units": means(tables["units"][tables["units"]["step"] == last_step], "dead", "nearly_dead", "always_on"),
        "last_step": last_step,
        "settings": results.probed,
    }
    return Topic(facts, {name: draw(getattr(figures_topics, name), table) for name, table in tables.items()})


def working_principle(results: Results, _: Claim) -> Topic:
    """The checks by hand: how many there are, which fail, and what is shown without a test."""
    checks = results.mechanisms["working_principle"]
    tested = checks[checks["tolerance"].notna()]
    failed = tested[tested["passes"] != "True"]
    facts = {
        "tested": len(tested),
        "passed": len(tested) - len(failed),
        "failed": list(dict.fromkeys(failed["check"])),
        "largest": checks.groupby("check")["largest_error"].max().to_dict(),
    }
    return Topic(facts, {"working_principle": draw(figures_topics.working_principle, checks)})


def timing(results: Results, _: Claim) -> Topic:
    """How long steps take with and without BN, whole and in parts, and inference with BN folded away."""
    times, ratios = results.timing.pivot_table(index="block", columns=["what", "arm"], values="milliseconds"), {}
    for what, treatment, reference in TIMED_PAIRS:
        judged = judge_timing(times[what, treatment], times[what, reference], 0.0, 0.0)
        ratios[what, treatment, reference] = {name: getattr(judged, name) for name in ("n", "mean", "low_95", "high_95")}
    facts = {"ratios": ratios, "medians": times.median().to_dict()}
    return Topic(facts, {"timing": draw(figures_topics.timing, results.timing, results.verdicts["L1"])})


def variance_shift(results: Results, claim: Claim) -> Topic | None:
    """Moving over population variance of each BN layer, with and without dropout, and its share of the shift of independent units."""
    history = contrasts.finished(results.histories[claim.study])
    if "dropout" not in history:
        return None
    ratios = contrasts.last_epoch(history[history["arm"] == BATCH_NORM], "dropout").dropna(axis="columns", how="all")
    layers = [int(column.removeprefix("variance_ratio_")) for column in map(str, ratios) if column.startswith("variance_ratio_")]
    if ratios.empty or not layers:
        return None
    rates = [float(rate) for rate in results.studies.declared[claim.study].grid["dropout"]]
    found = {rate: {layer: summary(ratios.loc[ratios["dropout"] == rate, f"variance_ratio_{layer}"]) for layer in layers} for rate in rates}
    shares: dict[float, float] = {}  # mean over layers of (ratio at the rate / ratio without dropout − 1) / (1 / (1 − p) − 1)
    for rate in [rate for rate in rates if rate > 0 and 0.0 in found]:
        pairs = [(found[rate][layer], found[0.0][layer]) for layer in layers[1:]]
        shifts = [at_rate["mean"] / at_none["mean"] - 1 for at_rate, at_none in pairs if at_rate and at_none]
        if shifts:
            shares[rate] = sum(shifts) / len(shifts) / (1 / (1 - rate) - 1)
    facts = {"rates": rates, "layers": layers, "ratios": found, "share": shares}
    return Topic(facts, {"variance_shift": draw(figures_topics.variance_shift, ratios, layers, rates)})


def tiny_batches(results: Results, claim: Claim) -> Topic | None:
    """What BN's loss at tiny batches is made of, and its outputs in both modes against theory."""
    study, probes = results.studies.declared[claim.study], results.mechanisms["discrepancy"]
    compared = sorted({int(term.level["batch_size"]) for term in claim.effect if "batch_size" in term.level})
    if not {BASELINE, BATCH_NORM} <= {*study.arms} or len(compared) < 2:
        return None
    accuracies = contrasts.accuracies_by_batch_size(of_claim(claim, results.histories[claim.study]))
    parts, sizes = contrasts.split_tiny_batches(accuracies, large=compared[-1], tiny=compared[0]), sorted(study.grid["batch_size"])
    smallest, last = int(probes["batch_size"].min()), int(probes["step"].max())
    at_smallest = probes[(probes["batch_size"] == smallest) & (probes["step"] == last)].iloc[0]
    facts = {
        "tiny": compared[0],
        "large": compared[-1],
        "parts": {part: interval(parts[part]) for part in parts},
        "names": contrasts.TINY_PARTS,
        "whole": contrasts.WHOLE,
        "probe": {
            "smallest": smallest,
            "last_step": last,
            "deviation": (probes["rms_ratio"] / probes["theory"] - 1).abs().groupby(probes["step"]).max().to_dict(),
            **{name: float(at_smallest[name]) for name in ("accuracy_training_mode", "accuracy_inference_mode", "divergence")},
        },
    }
    svgs = {"discrepancy": draw(figures_topics.discrepancy, probes)}
    if len(parts):
        svgs["tiny_batches"] = draw(figures_topics.tiny_batches, accuracies, parts, sizes)
    return Topic(facts, svgs)


def levels(results: Results, name: str, claim: Claim) -> Facts | None:
    """Return, for a claim over levels, each arm's measure at each, trials that fell short or diverged, and arms beside those compared."""
    study = results.studies.declared[claim.study]
    if (key := varied_parameter(claim, study)) is None:
        return None
    trials = of_claim(claim, results.trials[claim.study])
    if trials.duplicated([key, "arm", "seed"]).any():  # another parameter varies too, and the terms differ in both
        return None
    threshold = claim.across.threshold if isinstance(claim.across, LargestUsable) else None
    rows: list[tuple[object, Facts]] = []
    for level in study.grid[key]:
        cells = {arm: trials[at_level(trials, {key: level, "arm": arm})].set_index("seed") for arm in study.arms}
        facts = {
            arm: {
                "measured": summary(cell[name]),
                "short": int((~(cell[name] >= threshold)).sum()) if threshold is not None else None,
                "diverged": int(cell["diverged"].sum()),
                "n": len(cell),
                "beside": interval(cell[name] - cells[BATCH_NORM][name]) if BATCH_NORM in cells else {},
            }
            for arm, cell in cells.items()
        }
        rows.append((level, facts))
    return {
        "parameter": key.replace("_", " "),
        "threshold": threshold,
        "rows": rows,
        "any_diverged": bool(trials["diverged"].any()),
        "others": [arm for arm in study.arms if arm not in (BASELINE, BATCH_NORM)] if claim.across and BATCH_NORM in study.arms else [],
    }


TOPICS: tuple[Callable[[Results], Topic | None], ...] = (early_validation, speed, own_error, arms, best_learning_rates, mechanisms)
DETAILS: dict[str, Callable[[Results, Claim], Topic | None]] = {
    "C0": working_principle,
    "L1": timing,
    "L2": variance_shift,
    "L3": tiny_batches,
}
