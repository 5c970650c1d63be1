"""One figure for each claim, drawn by what its declaration says: a new claim needs none of its own."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.judging.contrasts import as_read, finished, measures_by_term, of_claim
from claims.judging.measures import AtMatchedLevel, LogEpochsToReach, LogSDOfChanges
from claims.reporting.figures import WIDTH, arm_colour, draw_effect
from claims.reporting.findings import Verdict
from claims.reporting.phrases import arm_name, column_label
from claims.studies.parameters import Claim
from pipeline.pages.plotting import GREY, ink, label_ends, plot_seeds, scale_by_ratios
from pipeline.trials.notebook import BASELINE
from pipeline.trials.studies import Study


def claim_figure(claim: Claim, verdict: Verdict, study: Study, history: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """What a claim's trials did, what was measured of each, and the effect within each seed.

    Over epochs where the claim compares arms; over levels where it compares, or reduces, those of a parameter.
    """
    parameter, by_arm = varied_parameter(claim, study), shows_arms(claim, study)
    history, trials = of_claim(claim, history), of_claim(claim, trials)
    figure = Figure(figsize=(WIDTH, 3.3))
    panels = figure.subplots(1, 3 if by_arm else 2, width_ratios=(2.1, 1, 0.9) if by_arm else (3.1, 0.9))
    if parameter is None:
        _draw_curves(panels[0], claim, study, finished(history))
    else:
        draw_levels(panels[0], trials.assign(**natural(trials[[verdict.id]], claim)), parameter, verdict.id, study)
        panels[0].set_ylabel(measure_label(claim))
        if is_logarithmic(claim):
            scale_by_ratios(panels[0])
    if by_arm:
        _draw_arms(panels[1], claim, measures_by_term(claim, claim.effect, verdict.id, trials), study.arms)
    draw_effect(panels[-1], verdict)
    return figure


def varied_parameter(claim: Claim, study: Study) -> str | None:
    """The parameter over whose levels a claim is told: the one that it reduces, or else the first that the study varies."""
    if claim.across is not None:
        return claim.across.parameter
    return next((key for key, values in study.grid.items() if len(values) > 1 and key not in claim.level), None)


def shows_arms(claim: Claim, study: Study) -> bool:
    """Whether a claim's figure has a panel that compares what was measured arm by arm."""
    return varied_parameter(claim, study) is None or claim.across is not None


def compared_arms(claim: Claim) -> list[str]:
    """Arms of a claim's effect, each once."""
    return list(dict.fromkeys(term.arm for term in claim.effect))


def measure_label(claim: Claim) -> str:
    """What a claim measures of each trial, as an axis names it."""
    measure = claim.measure
    if isinstance(measure, LogSDOfChanges):
        return f"SD of changes of\n{column_label(measure.column)}"
    if isinstance(measure, LogEpochsToReach):
        return f"epochs to {100 * measure.level:g} %"
    return column_label(measure.column) if measure else ""


def natural(values: pd.DataFrame, claim: Claim) -> pd.DataFrame:
    """Raw measures as they are shown: percent, nats, or what a logarithm is of."""
    if is_logarithmic(claim):
        return values.map(math.exp)
    return 100 * values if claim.measure and claim.measure.unit == "accuracy" else values


def is_logarithmic(claim: Claim) -> bool:
    """Whether what a claim measures of each trial is a logarithm."""
    return claim.measure is not None and claim.measure.unit == "log_ratio"


def _draw_curves(axes: Axes, claim: Claim, study: Study, history: pd.DataFrame) -> None:
    measure = claim.measure
    if measure is None:
        return
    ends = []
    for arm in [arm for arm in compared_arms(claim) if (history["arm"] == arm).any()]:
        colour, trials = arm_colour(arm, study.arms), history[history["arm"] == arm]
        if isinstance(measure, AtMatchedLevel):
            _draw_paths(axes, trials, measure, colour)
            last = trials[trials["epoch"] == trials["epoch"].max()]
            ends.append((float(last[measure.column].mean()), arm_name(arm), colour))
        else:
            shown = trials.assign(shown=100 * trials[measure.column] if "accuracy" in measure.column else trials[measure.column])
            ends.append((plot_seeds(axes, shown, "epoch", "shown", colour), arm_name(arm), colour))
    if isinstance(measure, AtMatchedLevel):
        axes.invert_xaxis()
        axes.set_xlabel(column_label(measure.level_of))
    else:
        axes.set_xlabel("epoch")
    if isinstance(measure, LogEpochsToReach):
        axes.axhline(100 * measure.level, color=GREY, linewidth=0.9, linestyle=":")
    if isinstance(measure, LogSDOfChanges):
        axes.axvspan(measure.from_epoch, max(measure.from_epoch, history["epoch"].max()), color="#F4F4F4", zorder=0)
        scale_by_ratios(axes)
    axes.set(title="Every seed", ylabel=column_label(measure.column))
    if ends:
        label_ends(axes, ends)


def _draw_paths(axes: Axes, trials: pd.DataFrame, measure: AtMatchedLevel, colour: str) -> None:
    for _, trial in trials.groupby("seed"):
        axes.plot(trial[measure.level_of], trial[measure.column], color=colour, linewidth=0.9, alpha=0.6, marker=".", markersize=3)


def draw_levels(axes: Axes, trials: pd.DataFrame, parameter: str, column: str, study: Study) -> None:
    """Draw a column over the levels of a parameter: seeds as thin lines, their means as thick ones, all arms of the study."""
    levels = study.grid[parameter]
    places = trials[parameter].map({as_read(trials[parameter], level): place for place, level in enumerate(levels)})
    shown = trials.assign(place=places, shown=trials[column])[trials[column].notna()]
    ends = []
    for arm in [arm for arm in study.arms if (shown["arm"] == arm).any()]:
        colour = arm_colour(arm, study.arms)
        of_arm = shown[shown["arm"] == arm]
        axes.plot(of_arm["place"], of_arm["shown"], "o", color=colour, markersize=3, alpha=0.5, markeredgewidth=0)
        ends.append((plot_seeds(axes, of_arm, "place", "shown", colour), arm_name(arm), colour))
    axes.set_xticks(range(len(levels)), [f"{level:g}" if isinstance(level, float | int) else str(level) for level in levels])
    axes.set(title="Every seed", xlabel=parameter.replace("_", " "))
    if ends:
        label_ends(axes, ends)


def _draw_arms(axes: Axes, claim: Claim, measures: pd.DataFrame, arms: Sequence[str]) -> None:
    """Draw the measure of each term, reduced over levels where the claim does so, joined by seed; no BN comes first."""
    shown, label, is_log = _reduced(claim, measures)
    order = sorted(range(len(claim.effect)), key=lambda index: (claim.effect[index].arm != BASELINE, index))
    axes.plot(range(len(order)), shown[order].T, color="#BBBBBB", linewidth=0.7)
    for place, index in enumerate(order):
        colour, values = arm_colour(claim.effect[index].arm, arms), shown[index].dropna()
        axes.plot([place] * len(values), values, "o", color=colour, markersize=4, alpha=0.6, markeredgewidth=0)
        if len(values):
            axes.plot(place, values.mean(), "D", color=colour, markersize=6, markeredgecolor="white")
    if is_log:
        scale_by_ratios(axes)
    names = [claim.effect[index].arm for index in order]
    axes.set_xticks(range(len(order)), [arm_name(name).replace(" ", "\n") if name != BASELINE else arm_name(name) for name in names])
    for text, name in zip(axes.get_xticklabels(), names, strict=True):
        text.set(color=ink(arm_colour(name, arms)), fontweight="bold")
    axes.set(xlim=(-0.4, len(order) - 0.6), title="Measured", ylabel=label)


def _reduced(claim: Claim, measures: pd.DataFrame) -> tuple[pd.DataFrame, str, bool]:
    """What is shown of measures, how an axis names it, and whether that axis is logarithmic."""
    if claim.across is None:
        return natural(measures, claim), measure_label(claim), is_logarithmic(claim)
    parameter = claim.across.parameter.replace("_", " ")
    if claim.across.take == "largest_usable":
        return 10**measures, f"largest usable {parameter}", True
    if claim.measure and claim.measure.unit == "accuracy":
        return 100 * measures, f"range over {parameter} (points)", False
    return measures, f"range over {parameter}", False
