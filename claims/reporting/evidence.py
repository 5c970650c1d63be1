"""What stands behind single claims beside their effect: the facts that the claim's template speaks of, and further figures."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from claims.judging import contrasts
from claims.judging.contrasts import interval
from claims.judging.inference import judge_timing
from claims.judging.measures import LargestUsable
from claims.reporting import figures_probes
from claims.reporting.chapters import Chapter, summary
from claims.reporting.figures_claims import varied_parameter
from claims.reporting.findings import Findings
from claims.studies.parameters import Claim
from pipeline.pages.plotting import draw
from pipeline.pages.wording import Figures
from pipeline.trials.notebook import BASELINE, BATCH_NORM

TIMED_PAIRS = (
    ("training_step", BATCH_NORM, BASELINE),
    ("forward_and_backward", BATCH_NORM, BASELINE),
    ("inference", BATCH_NORM, BASELINE),
    ("inference", "batch_norm_folded", BASELINE),
    ("inference", "batch_norm_folded", BATCH_NORM),
)


def working_principle(findings: Findings) -> Chapter:
    """Checks by hand: how many there are, which fail, and what is shown without a test."""
    checks = findings.mechanisms["working_principle"]
    tested = checks[checks["tolerance"].notna()]
    failed = tested[tested["passes"] != "True"]
    facts = {
        "tested": len(tested),
        "passed": len(tested) - len(failed),
        "failed": list(dict.fromkeys(failed["check"])),
        "largest": {str(check): float(rows["largest_error"].abs().max()) for check, rows in checks.groupby("check", sort=False)},
        "tolerance": {str(check): float(rows["tolerance"].max()) for check, rows in tested.groupby("check", sort=False)},
        "layers": {str(check): len(rows) for check, rows in checks.groupby("check", sort=False)},
    }
    return Chapter(facts, {"working_principle": draw(figures_probes.working_principle, checks)})


def levels(findings: Findings, name: str, claim: Claim) -> dict[str, Any] | None:
    """A claim told over levels: each arm's measure at each, trials that fell short or diverged, and arms beside those compared."""
    study = findings.parameters.studies.get(claim.study)
    if study is None or claim.measure is None or (key := varied_parameter(claim, study)) is None:
        return None
    trials = contrasts.of_claim(claim, findings.trials[claim.study])
    if trials.duplicated([key, "arm", "seed"]).any():  # another parameter varies too, and the terms differ in both
        return None
    threshold = claim.across.threshold if isinstance(claim.across, LargestUsable) else None
    rows = [
        {
            "level": level,
            "arms": {arm: _at_level(trials[contrasts.at_level(trials, {key: level, "arm": arm})], name, threshold) for arm in study.arms},
        }
        for level in study.grid[key]
    ]
    others = [arm for arm in study.arms if arm not in (BASELINE, BATCH_NORM)] if claim.across and BATCH_NORM in study.arms else []
    return {
        "parameter": key.replace("_", " "),
        "threshold": threshold,
        "arms": study.arms,
        "rows": rows,
        "any_diverged": bool(trials["diverged"].any()),
        "others": {arm: [_against_batch_norm(trials, key, row["level"], arm, name) for row in rows] for arm in others},
        "epsilon": {arm: findings.parameters.trials.trial_config(arm, {}, seed=0).batch_norm_epsilon for arm in study.arms},
        "measure": claim.measure,
    }


def _at_level(trials: pd.DataFrame, name: str, threshold: float | None) -> dict[str, object]:
    short = int((~(trials[name] >= threshold)).sum()) if threshold is not None else None
    return {"measured": summary(trials[name]), "short": short, "diverged": int(trials["diverged"].sum()), "n": len(trials)}


def _against_batch_norm(trials: pd.DataFrame, key: str, level: object, arm: str, name: str) -> Figures:
    of_arm, of_batch_norm = (
        trials[contrasts.at_level(trials, {key: level, "arm": which})].set_index("seed")[name] for which in (arm, BATCH_NORM)
    )
    return interval(of_arm - of_batch_norm)


def timing(findings: Findings) -> Chapter:
    """How long steps take with and without BN, whole and in parts, and inference with BN folded away."""
    times = findings.timing
    medians = {(str(what), str(arm)): float(rows["milliseconds"].median()) for (what, arm), rows in times.groupby(["what", "arm"])}
    ratios = {pair: _ratio(times, *pair) for pair in TIMED_PAIRS if {(pair[0], pair[1]), (pair[0], pair[2])} <= medians.keys()}
    return Chapter({"ratios": ratios, "medians": medians}, {"timing": draw(figures_probes.timing, times, findings.ledger["L1"])})


def _ratio(times: pd.DataFrame, what: str, treatment: str, reference: str) -> Figures:
    by_arm = times[times["what"] == what].pivot_table(index="block", columns="arm", values="milliseconds")[[treatment, reference]].dropna()
    judged = judge_timing(by_arm[treatment], by_arm[reference], 0.0, 0.0)
    found = {"n": judged.n, "mean": judged.mean, "low_95": judged.low_95, "high_95": judged.high_95}
    return {name: value for name, value in found.items() if value is not None}


def variance_shift(findings: Findings, study: str) -> Chapter | None:
    """Moving over population variance of each BN layer, with and without dropout, and how much of the theory's shift that is."""
    if "dropout" not in findings.histories[study]:
        return None
    ratios, layers = figures_probes.last_variance_ratios(findings.histories[study])
    rates = [float(rate) for rate in findings.parameters.studies[study].grid["dropout"]]
    if ratios.empty or not layers:
        return None
    found = {rate: {layer: summary(ratios.loc[ratios["dropout"] == rate, f"variance_ratio_{layer}"]) for layer in layers} for rate in rates}
    facts = {
        "rates": rates,
        "layers": layers,
        "ratios": found,
        "theory": {rate: 1 / (1 - rate) for rate in rates},
        "share": {rate: _share_of_theory(found, rate, layers[1:]) for rate in rates if rate > 0},
    }
    return Chapter(facts, {"variance_shift": draw(figures_probes.variance_shift, ratios, layers, rates)})


def _share_of_theory(found: dict[float, dict[int, Figures]], rate: float, layers: list[int]) -> float | None:
    """Mean over layers of (ratio at the rate / ratio without dropout − 1) / (1 / (1 − p) − 1)."""
    without = found.get(0.0, {})
    pairs = [(found[rate][layer], without[layer]) for layer in layers if found[rate].get(layer) and without.get(layer)]
    shifts = [at_rate["mean"] / at_none["mean"] - 1 for at_rate, at_none in pairs]
    return sum(shifts) / len(shifts) / (1 / (1 - rate) - 1) if shifts else None


def tiny_batches(findings: Findings, claim: Claim) -> Chapter | None:
    """What BN's loss at tiny batches is made of, and its outputs in both modes against theory."""
    compared = sorted({int(term.level["batch_size"]) for term in claim.effect if "batch_size" in term.level})
    if not {BASELINE, BATCH_NORM} <= {*findings.parameters.studies[claim.study].arms} or len(compared) < 2:
        return None
    accuracies = contrasts.accuracies_by_batch_size(contrasts.of_claim(claim, findings.histories[claim.study]))
    parts = contrasts.split_tiny_batches(accuracies, large=compared[-1], tiny=compared[0])
    sizes = sorted(findings.parameters.studies[claim.study].grid["batch_size"])
    facts = {
        "tiny": compared[0],
        "large": compared[-1],
        "sizes": sizes,
        "accuracies": {
            size: {name: summary(accuracies[name][accuracies.index.get_level_values(0) == size]) for name in accuracies} for size in sizes
        },
        "parts": {part: interval(parts[part]) for part in parts},
        "names": contrasts.TINY_PARTS,
        "whole": contrasts.WHOLE,
        "probe": _discrepancy(findings.mechanisms["discrepancy"]),
    }
    svgs = {"discrepancy": draw(figures_probes.discrepancy, findings.mechanisms["discrepancy"])}
    if len(parts):
        svgs["tiny_batches"] = draw(figures_probes.tiny_batches, accuracies, parts, sizes)
    return Chapter(facts, svgs)


def _discrepancy(probes: pd.DataFrame) -> dict[str, object]:
    relative = (probes["rms_ratio"] / probes["theory"] - 1).abs()
    smallest, last = int(probes["batch_size"].min()), int(probes["step"].max())
    at_smallest = probes[(probes["batch_size"] == smallest) & (probes["step"] == last)].iloc[0]
    return {
        "smallest": smallest,
        "last_step": last,
        "deviation": {int(str(step)): float(of_step.max()) for step, of_step in relative.groupby(probes["step"])},
        "accuracy_training_mode": float(at_smallest["accuracy_training_mode"]),
        "accuracy_inference_mode": float(at_smallest["accuracy_inference_mode"]),
        "divergence": float(at_smallest["divergence"]),
    }


def evidence(findings: Findings, name: str, claim: Claim) -> Chapter | None:
    """Give what else there is behind the few claims that have more of their own than an effect."""
    own: dict[str, Callable[[], Chapter | None]] = {
        "C0": lambda: working_principle(findings),
        "L1": lambda: timing(findings),
        "L2": lambda: variance_shift(findings, claim.study),
        "L3": lambda: tiny_batches(findings, claim),
    }
    return own[name]() if name in own else None
