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
from pipeline.pages.wording import Figures
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


def _has(results: Results, study: str, *arms: str, beside: str = "") -> bool:
    """Return whether a study has these arms and one level, or varies `beside` alone: over further levels a mean says nothing."""
    declared = results.studies.declared.get(study)
    if declared is None or not {*arms} <= {*declared.arms}:
        return False
    return all(len(values) == 1 for key, values in declared.grid.items() if key != beside)


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
    if claim is None or overhead is None or claim.study != CORE or not _has(results, CORE, BASELINE, BATCH_NORM):
        return None
    if not isinstance(claim.measure, LogEpochsToReach):
        return None
    steps = results.timing[results.timing["what"] == "training_step"]
    milliseconds = {str(arm): float(times.median()) for arm, times in steps.groupby("arm")["milliseconds"]}
    batch_size = results.studies.settings(BATCH_NORM)["batch_size"]
    updates = math.ceil(results.training_images / batch_size)
    epochs = {str(arm): of_arm["B2a"].map(math.exp) for arm, of_arm in results.trials[CORE].groupby("arm")}
    facts = {
        "break_even": results.verdicts["B2a"].effect,
        "measured": overhead.effect,
        "level": claim.measure.level,
        "updates": updates,
        "milliseconds": milliseconds,
        "batch_size": batch_size,
        "epochs": {arm: summary(to_level) for arm, to_level in epochs.items()},
        "never": {arm: int((to_level > results.studies.epochs(arm) + 0.999).sum()) for arm, to_level in epochs.items()},
    }
    return Topic(facts, {"speed": draw(figures_topics.speed, results.histories[CORE], updates, milliseconds, claim.measure.level)})


def own_error(results: Results) -> Topic | None:
    """The notebook's own error: one model trained on through the batch sizes, against fresh models."""
    if not _has(results, CONTINUED):
        return None
    settings = {arm: results.studies.settings(arm) for arm in results.studies.declared[CONTINUED].arms}
    continued = next((arm for arm, of_arm in settings.items() if of_arm["earlier_batch_sizes"]), None)
    if continued is None:
        return None
    sizes, each = [*settings[continued]["earlier_batch_sizes"], settings[continued]["batch_size"]], settings[continued]["epochs"]
    by_size = {of_arm["batch_size"]: arm for arm, of_arm in settings.items() if not of_arm["earlier_batch_sizes"]}
    if not set(sizes) <= set(by_size):
        return None
    fresh, history, metrics = {size: by_size[size] for size in sizes}, results.histories[CONTINUED], {}
    trials = contrasts.finished(history)
    for metric in ("val_accuracy", "train_eval_accuracy"):
        on = contrasts.by_size_trained_on(trials[trials["arm"] == continued], sizes, each, metric, LAST_EPOCHS)
        by_arm = contrasts.last_epochs(history, metric, LAST_EPOCHS)
        alone = pd.DataFrame({size: by_arm[arm] for size, arm in fresh.items() if arm in by_arm}).reindex(columns=sizes)
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
    return Topic(facts, {"continued_training": draw(figures_topics.continued_training, history, continued, fresh, each)})


def arms(results: Results) -> Topic | None:
    """Every arm of the core study beside the arm without normalization that has the same optimizer and learning rate, or the baseline."""
    if not _has(results, CORE, BASELINE):
        return None
    study, history = results.studies.declared[CORE], results.histories[CORE]
    settings = {arm: results.studies.settings(arm) for arm in study.arms}
    alike = {arm: (of_arm["optimizer"], of_arm["learning_rate"]) for arm, of_arm in settings.items()}
    plain = [arm for arm, of_arm in settings.items() if of_arm["normalization"] == "none"]
    references = {arm: next((other for other in plain if alike[other] == alike[arm]), BASELINE) for arm in study.arms}
    metrics = ("train_eval_accuracy", "val_accuracy", "val_accuracy_recalibrated", "val_accuracy_batch_statistics")
    last = {metric: contrasts.last_epochs(history, metric, LAST_EPOCHS).reindex(columns=study.arms) for metric in metrics}
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
    return Topic(facts, {"all_arms": draw(figures_topics.all_arms, history, study.arms)})


def best_learning_rates(results: Results) -> Topic | None:
    """Each arm at the learning rate that is best for it."""
    if not _has(results, LEARNING_RATE, beside="learning_rate") or "learning_rate" not in results.histories[LEARNING_RATE]:
        return None
    history, study, column = results.histories[LEARNING_RATE], results.studies.declared[LEARNING_RATE], "val_accuracy_recalibrated"
    last = history[history["epoch"] == history.groupby(["arm", "learning_rate", "seed"])["epoch"].transform("max")]
    best, values = contrasts.at_best_level(history, "learning_rate", column)
    facts = {
        "best": best,
        "rates": study.grid["learning_rate"],
        "epochs": int(history["epoch"].max()),
        "accuracy": {arm: summary(values[arm]) for arm in values},
        "difference": {arm: interval(values[arm] - values[BASELINE]) for arm in values if BASELINE in values},
    }
    return Topic(facts, {"learning_rates": draw(figures_topics.learning_rates, last, study, column)})


def mechanisms(results: Results) -> Topic | None:
    """What was probed inside one pair of networks."""
    tables, names = results.mechanisms, ("drift", "gradient_shift", "landscape", "units")
    by_arm = [{arm: tables[name][tables[name]["arm"] == arm] for arm in (BASELINE, BATCH_NORM)} for name in names]
    if any(rows.empty for of_arm in by_arm for rows in of_arm.values()):
        return None
    drift, shift, landscape, units = by_arm
    directions: dict[str, Facts] = {}
    for direction in dict.fromkeys(tables["landscape"]["direction"]):
        for arm, rows in landscape.items():
            by_step = rows[rows["direction"] == direction].groupby("step")
            loss_range = by_step["loss"].max() - by_step["loss"].min()
            found = {"loss_range": float(loss_range.mean()), "smoothness": float(by_step["effective_smoothness"].max().mean())}
            directions.setdefault(str(direction), {})[arm] = found
    facts = {
        "drift": {column: {arm: float(rows[column].mean()) for arm, rows in drift.items()} for column in ("mean_shift", "log_sd_shift")},
        "shift": {column: {arm: float(rows[column].mean()) for arm, rows in shift.items()} for column in ("relative_change", "cosine")},
        "directions": directions,
        "units": {
            column: {arm: float(rows.loc[rows["step"] == rows["step"].max(), column].mean()) for arm, rows in units.items()}
            for column in ("dead", "nearly_dead", "always_on")
        },
        "last_step": int(tables["units"]["step"].max()),
        "settings": results.probed,
    }
    return Topic(facts, {name: draw(getattr(figures_topics, name), tables[name]) for name in names})


def working_principle(results: Results, _: Claim) -> Topic:
    """The checks by hand: how many there are, which fail, and what is shown without a test."""
    checks = results.mechanisms["working_principle"]
    tested = checks[checks["tolerance"].notna()]
    failed = tested[tested["passes"] != "True"]
    facts = {
        "tested": len(tested),
        "passed": len(tested) - len(failed),
        "failed": list(dict.fromkeys(failed["check"])),
        "largest": {str(check): float(rows["largest_error"].abs().max()) for check, rows in checks.groupby("check", sort=False)},
    }
    return Topic(facts, {"working_principle": draw(figures_topics.working_principle, checks)})


def timing(results: Results, _: Claim) -> Topic:
    """How long steps take with and without BN, whole and in parts, and inference with BN folded away."""
    times, ratios = results.timing, {}
    medians = {(str(what), str(arm)): float(rows["milliseconds"].median()) for (what, arm), rows in times.groupby(["what", "arm"])}
    for what, treatment, reference in TIMED_PAIRS:
        if {(what, treatment), (what, reference)} <= medians.keys():
            blocks = times[times["what"] == what].pivot_table(index="block", columns="arm", values="milliseconds")
            blocks = blocks[[treatment, reference]].dropna()
            judged = judge_timing(blocks[treatment], blocks[reference], 0.0, 0.0)
            found = {"n": judged.n, "mean": judged.mean, "low_95": judged.low_95, "high_95": judged.high_95}
            ratios[what, treatment, reference] = {name: value for name, value in found.items() if value is not None}
    return Topic({"ratios": ratios, "medians": medians}, {"timing": draw(figures_topics.timing, times, results.verdicts["L1"])})


def variance_shift(results: Results, claim: Claim) -> Topic | None:
    """Moving over population variance of each BN layer, with and without dropout, and its share of the shift of independent units."""
    history = results.histories[claim.study]
    if "dropout" not in history:
        return None
    ratios, layers = contrasts.last_variance_ratios(history)
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
    facts = {"rates": rates, "layers": layers, "ratios": found, "theory": {rate: 1 / (1 - rate) for rate in rates}, "share": shares}
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
    deviation = (probes["rms_ratio"] / probes["theory"] - 1).abs().groupby(probes["step"]).max()
    facts = {
        "tiny": compared[0],
        "large": compared[-1],
        "parts": {part: interval(parts[part]) for part in parts},
        "names": contrasts.TINY_PARTS,
        "whole": contrasts.WHOLE,
        "probe": {
            "smallest": smallest,
            "last_step": last,
            "deviation": {int(str(step)): float(largest) for step, largest in deviation.items()},
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
    if claim.measure is None or (key := varied_parameter(claim, study)) is None:
        return None
    trials = of_claim(claim, results.trials[claim.study])
    if trials.duplicated([key, "arm", "seed"]).any():  # another parameter varies too, and the terms differ in both
        return None
    threshold = claim.across.threshold if isinstance(claim.across, LargestUsable) else None
    others = [arm for arm in study.arms if arm not in (BASELINE, BATCH_NORM)] if claim.across and BATCH_NORM in study.arms else []
    rows: list[Facts] = []
    differences: dict[str, list[Figures]] = {arm: [] for arm in others}
    for level in study.grid[key]:
        cells = {arm: trials[at_level(trials, {key: level, "arm": arm})] for arm in study.arms}
        row = {
            arm: {
                "measured": summary(cell[name]),
                "short": int((~(cell[name] >= threshold)).sum()) if threshold is not None else None,
                "diverged": int(cell["diverged"].sum()),
                "n": len(cell),
            }
            for arm, cell in cells.items()
        }
        rows.append({"level": level, "arms": row})
        for arm in others:
            of_arm, of_batch_norm = (cells[which].set_index("seed")[name] for which in (arm, BATCH_NORM))
            differences[arm].append(interval(of_arm - of_batch_norm))
    return {
        "parameter": key.replace("_", " "),
        "threshold": threshold,
        "arms": study.arms,
        "rows": rows,
        "any_diverged": bool(trials["diverged"].any()),
        "others": differences,
        "epsilon": {arm: results.studies.settings(arm)["batch_norm_epsilon"] for arm in study.arms},
        "measure": claim.measure,
    }


TOPICS: dict[str, Callable[[Results], Topic | None]] = {
    topic.__name__: topic for topic in (early_validation, speed, own_error, arms, best_learning_rates, mechanisms)
}
DETAILS: dict[str, Callable[[Results, Claim], Topic | None]] = {
    "C0": working_principle,
    "L1": timing,
    "L2": variance_shift,
    "L3": tiny_batches,
}
