"""The figures of the verdicts: the forest plot of all, and one for each claim, drawn by what its declaration says.

Every seed is visible. Accuracies are in percent, their differences in percentage points, losses in nats.
"""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.judging.amounts import amount, threshold
from claims.judging.effects import as_read, measures_by_term, of_claim
from claims.judging.kinds import AtMatchedLevel, LogEpochsToReach, LogSDOfChanges
from claims.judging.parameters import Claim
from claims.judging.verdicts import JudgedClaim
from claims.reporting.contrasts import finished
from claims.reporting.words import arm_name, column_label
from pipeline.pages.plotting import ARM_COLOURS, GREY, colour_of, ink, label_ends, plot_seeds, scale_by_ratios
from pipeline.trials.notebook import BASELINE, BATCH_NORM
from pipeline.trials.studies import Study

BLACK = "#222222"
WIDTH = 8.2  # inches, as in the project's other figures
COLOURS = (*ARM_COLOURS, "#009E73", "#CC79A7", "#E69F00")
VERDICT_COLOURS = {"supported": "#009E73", "true but negligible": "#56B4E9", "refuted": "#E69F00", "reversed": "#CC79A7"}
BAND = "#EFEFEF"
EFFECT_LABELS = {"accuracy": "percentage points", "nats": "nats", "decades": "decades", "log_ratio": "ratio"}
FARTHEST = (-6.0, 10.0)  # what lies beyond is drawn at the edge, with its number


def arm_colour(arm: str, arms: Sequence[str]) -> str:
    """Return the colour of an arm in a study. No BN and BN have the same in every figure."""
    return colour_of(arm, [BASELINE, BATCH_NORM, *(other for other in arms if other not in (BASELINE, BATCH_NORM))], COLOURS)


def own_unit(row: JudgedClaim) -> float:
    """Return the effect that one unit of the forest plot stands for: from the null effect to the smallest that matters.

    A margin is its own unit. Where every effect matters, however small, the unit is the SD between seeds.
    """
    return ((row.smallest_effect or 0.0) - row.null) or abs(row.null) or row.sd or 1.0


def forest(rows: Sequence[JudgedClaim]) -> Figure:
    """Draw every claim's effect in units of its own smallest effect of interest: seeds, mean, 95 % interval and verdict."""
    figure = Figure(figsize=(WIDTH, 0.9 + 0.46 * len(rows)))
    axes, scaled = figure.subplots(), []
    for row in rows:
        measured: list[list[float | None]] = [[*(row.differences or {}).values()], [row.low_95, row.high_95], [row.mean]]
        scaled.append([[(value - row.null) / own_unit(row) for value in part if value is not None] for part in measured])
    everything = [value for parts in scaled for part in parts for value in part]
    low, high = max(min([*everything, -0.5]), FARTHEST[0]), min(max([*everything, 1.5]), FARTHEST[1])
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    for place, (row, parts) in enumerate(zip(rows, scaled, strict=True)):
        if row.smallest_effect != row.null:
            axes.fill_between([0, 1], place - 0.36, place + 0.36, color=BAND, linewidth=0)
        _draw_row(axes, parts, place, low, high)
        text, colour = row.verdict or "no verdict", VERDICT_COLOURS.get(row.verdict or "", GREY)
        axes.text(1.025, place, text, transform=axes.get_yaxis_transform(), va="center", color=ink(colour), fontweight="bold")
    for edge in (0, 1):
        axes.axvline(edge, color=GREY, linewidth=0.9, linestyle="-" if edge == 0 else ":")
    units = [f"{'margin' if row.has_margin else 'matters from'} {threshold(row.smallest_effect or 0.0, row.unit)}" for row in rows]
    axes.set_yticks(range(len(rows)), [f"{row.id}  {row.says}\n{unit}" for row, unit in zip(rows, units, strict=True)])
    axes.set(
        xlim=(low, high), ylim=(len(rows) - 0.4, -0.6), xlabel="effect, in units of the smallest that matters (0: none, 1: just matters)"
    )
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, pad=9)  # beside a mean at the edge
    axes.spines["left"].set_visible(False)
    return figure


def _draw_row(axes: Axes, parts: Sequence[Sequence[float]], place: int, low: float, high: float) -> None:
    """Draw seeds, interval and mean on one line. What lies beyond the axis is drawn at its edge, with its number."""
    seeds, interval, mean = ([min(max(value, low), high) for value in part] for part in parts)
    axes.plot(interval, [place] * len(interval), color=BLACK, linewidth=1.6)
    axes.plot(seeds, [place + 0.22] * len(seeds), "o", color=BLACK, markersize=3.5, alpha=0.45, markeredgewidth=0, clip_on=False)
    for value in mean:
        axes.plot(value, place, "D", color=BLACK, markersize=6, markeredgecolor="white", markeredgewidth=0.8, clip_on=False, zorder=3)
    everything = [value for part in parts for value in part]
    smallest, largest = min(everything, default=0.0), max(everything, default=0.0)
    for beyond, at, text, side in (
        (smallest < low, low + 0.012 * (high - low), f"◀ {smallest:.1f}", "left"),
        (largest > high, high - 0.012 * (high - low), f"{largest:.1f} ▶", "right"),
    ):
        if beyond:
            axes.text(at, place - 0.2, text.replace("-", "−"), size=7.5, va="bottom", ha=side, color=GREY)


def draw_effect(axes: Axes, row: JudgedClaim) -> None:
    """Draw every seed's effect on a vertical axis in its natural unit, their mean and interval, and what they are judged against."""

    def natural_value(value: float) -> float:
        return math.exp(value) if row.unit == "log_ratio" else 100 * value if row.unit == "accuracy" else value

    seeds = [natural_value(value) for value in (row.differences or {}).values()]
    axes.plot([0.0] * len(seeds), seeds, "o", color=BLACK, markersize=4, alpha=0.45, markeredgewidth=0)
    if row.low_95 is not None and row.high_95 is not None:
        axes.plot([0.25, 0.25], [natural_value(row.low_95), natural_value(row.high_95)], color=BLACK, linewidth=1.6)
    if row.mean is not None:
        axes.plot(0.25, natural_value(row.mean), "D", color=BLACK, markersize=6, markeredgecolor="white")
        axes.text(0.4, natural_value(row.mean), amount(row.mean, row.unit), va="center", size=8)
    if row.unit == "log_ratio":
        scale_by_ratios(axes)
    axes.axhline(natural_value(row.null), color=GREY, linewidth=0.9)
    axes.axhline(natural_value(row.smallest_effect or 0.0), color=GREY, linewidth=0.9, linestyle=":")
    axes.set(xlim=(-0.3, 1.3), xticks=[], title="Effect", ylabel=EFFECT_LABELS[row.unit])


def claim_figure(claim: Claim, row: JudgedClaim, study: Study, history: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """Draw what a claim's trials did, what was measured of each, and the effect within each seed.

    Over epochs where the claim compares arms; over levels where it compares, or reduces, those of a parameter.
    """
    parameter, by_arm = varied_parameter(claim, study), shows_arms(claim, study)
    history, trials = of_claim(claim, history), of_claim(claim, trials)
    figure = Figure(figsize=(WIDTH, 3.3))
    panels = figure.subplots(1, 3 if by_arm else 2, width_ratios=(2.1, 1, 0.9) if by_arm else (3.1, 0.9))
    if parameter is None:
        _draw_curves(panels[0], claim, study, finished(history))
    else:
        shown, is_log = natural(trials[[row.id]], claim)
        draw_levels(panels[0], trials.assign(**shown), parameter, row.id, study)
        panels[0].set_ylabel(measure_label(claim))
        if is_log:
            scale_by_ratios(panels[0])
    if by_arm:
        _draw_arms(panels[1], claim, measures_by_term(claim, claim.effect, row.id, trials), study.arms)
    draw_effect(panels[-1], row)
    return figure


def varied_parameter(claim: Claim, study: Study) -> str | None:
    """Return the parameter over whose levels a claim is shown: the one that it reduces, or else the first that the study varies."""
    if claim.across is not None:
        return claim.across.parameter
    return next((key for key, values in study.grid.items() if len(values) > 1 and key not in claim.level), None)


def shows_arms(claim: Claim, study: Study) -> bool:
    """Return whether a claim's figure has a panel that compares what was measured arm by arm."""
    return varied_parameter(claim, study) is None or claim.across is not None


def measure_label(claim: Claim) -> str:
    """Return what a claim measures of each trial, as an axis names it."""
    measure = claim.measure
    if isinstance(measure, LogSDOfChanges):
        return f"SD of changes of\n{column_label(measure.column)}"
    if isinstance(measure, LogEpochsToReach):
        return f"epochs to {100 * measure.level:g} %"
    return column_label(measure.column) if measure else ""


def natural(values: pd.DataFrame, claim: Claim) -> tuple[pd.DataFrame, bool]:
    """Return raw measures as they are shown: percent, nats, or what a logarithm is of; and whether the axis is logarithmic."""
    unit = claim.measure.unit if claim.measure else None
    return values.map(math.exp) if unit == "log_ratio" else 100 * values if unit == "accuracy" else values, unit == "log_ratio"


def _draw_curves(axes: Axes, claim: Claim, study: Study, history: pd.DataFrame) -> None:
    measure, ends = claim.measure, []
    if measure is None:
        return
    for arm in [arm for arm in claim.arms if (history["arm"] == arm).any()]:
        colour, trials = arm_colour(arm, study.arms), history[history["arm"] == arm]
        if isinstance(measure, AtMatchedLevel):
            for _, trial in trials.groupby("seed"):
                path = trial[measure.level_of], trial[measure.column]
                axes.plot(*path, color=colour, linewidth=0.9, alpha=0.6, marker=".", markersize=3)
            end = float(trials.loc[trials["epoch"] == trials["epoch"].max(), measure.column].mean())
        else:
            shown = trials.assign(shown=100 * trials[measure.column] if "accuracy" in measure.column else trials[measure.column])
            end = plot_seeds(axes, shown, "epoch", "shown", colour)
        ends.append((end, arm_name(arm), colour))
    axes.set(title="Every seed", xlabel="epoch", ylabel=column_label(measure.column))
    if isinstance(measure, AtMatchedLevel):
        axes.invert_xaxis()
        axes.set_xlabel(column_label(measure.level_of))
    if isinstance(measure, LogEpochsToReach):
        axes.axhline(100 * measure.level, color=GREY, linewidth=0.9, linestyle=":")
    if isinstance(measure, LogSDOfChanges):
        axes.axvspan(measure.from_epoch, max(measure.from_epoch, history["epoch"].max()), color="#F4F4F4", zorder=0)
        scale_by_ratios(axes)
    label_ends(axes, ends)


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
    label_ends(axes, ends)


def _draw_arms(axes: Axes, claim: Claim, measures: pd.DataFrame, arms: Sequence[str]) -> None:
    """Draw the measure of each term, reduced over levels where the claim does so, joined by seed; no BN comes first."""
    (shown, is_log), label = natural(measures, claim), measure_label(claim)
    if claim.across is not None:
        parameter = claim.across.parameter.replace("_", " ")
        if claim.across.take == "largest_usable":
            shown, is_log, label = 10**measures, True, f"largest usable {parameter}"
        else:
            label = f"range over {parameter}{' (points)' if claim.measure and claim.measure.unit == 'accuracy' else ''}"
    order = sorted(range(len(claim.effect)), key=lambda index: (claim.effect[index].arm != BASELINE, index))
    names = [claim.effect[index].arm for index in order]
    axes.plot(range(len(order)), shown[order].T, color="#BBBBBB", linewidth=0.7)
    for place, (index, name) in enumerate(zip(order, names, strict=True)):
        colour, values = arm_colour(name, arms), shown[index].dropna()
        axes.plot([place] * len(values), values, "o", color=colour, markersize=4, alpha=0.6, markeredgewidth=0)
        axes.plot(place, values.mean(), "D", color=colour, markersize=6, markeredgecolor="white")
    if is_log:
        scale_by_ratios(axes)
    axes.set_xticks(range(len(order)), [arm_name(name).replace(" ", "\n") if name != BASELINE else arm_name(name) for name in names])
    for text, name in zip(axes.get_xticklabels(), names, strict=True):
        text.set(color=ink(arm_colour(name, arms)), fontweight="bold")
    axes.set(xlim=(-0.4, len(order) - 0.6), title="Measured", ylabel=label)
