"""What the claims' figures share, and the first of them: the forest plot of all verdicts.

Every seed is visible; accuracies are in percent, their differences in percentage points, losses in nats.
"""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.reporting.findings import Verdict
from claims.reporting.phrases import amount, threshold
from pipeline.pages.plotting import ARM_COLOURS, GREY, colour_of, ink, scale_by_ratios
from pipeline.trials.notebook import BASELINE, BATCH_NORM

WIDTH = 8.2  # inches, as in the project's other figures
COLOURS = (*ARM_COLOURS, "#009E73", "#CC79A7", "#E69F00")
VERDICT_COLOURS = {"supported": "#009E73", "true but negligible": "#56B4E9", "refuted": "#E69F00", "reversed": "#CC79A7"}
BAND = "#EFEFEF"
FARTHEST = (-6.0, 10.0)  # what lies beyond is drawn at the edge, with its number


def arm_colour(arm: str, arms: Sequence[str]) -> str:
    """Colour of an arm in a study: no BN and BN have the same in every figure."""
    return colour_of(arm, [BASELINE, BATCH_NORM, *(other for other in arms if other not in (BASELINE, BATCH_NORM))], COLOURS)


def own_unit(verdict: Verdict) -> float:
    """The effect that one unit of the forest plot stands for: from the null effect to the smallest that matters.

    A margin is its own unit; where every effect matters, however small, it is the SD between seeds.
    """
    span = (verdict.smallest_effect or 0.0) - verdict.null
    return span or abs(verdict.null) or verdict.sd or 1.0


def forest(ledger: Sequence[Verdict]) -> Figure:
    """Every claim's effect in units of its own smallest effect of interest: seeds, mean, 95 % interval and verdict."""
    scaled = [_scaled(verdict) for verdict in ledger]
    figure = Figure(figsize=(WIDTH, 0.9 + 0.46 * len(ledger)))
    axes = figure.subplots()
    limits = _limits(scaled)
    for row, (verdict, values) in enumerate(zip(ledger, scaled, strict=True)):
        if verdict.smallest_effect != verdict.null:
            axes.fill_between([0, 1], row - 0.36, row + 0.36, color=BAND, linewidth=0)
        _draw_row(axes, values, row, limits)
        _write_verdict(axes, verdict, row)
    for place in (0, 1):
        axes.axvline(place, color=GREY, linewidth=0.9, linestyle="-" if place == 0 else ":")
    axes.set_yticks(range(len(ledger)), [_row_label(verdict) for verdict in ledger])
    axes.set(xlim=limits, ylim=(len(ledger) - 0.4, -0.6), xlabel="effect, in units of the smallest that matters (0: none, 1: just matters)")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, pad=9)  # beside a mean at the edge
    axes.spines["left"].set_visible(False)
    return figure


def _scaled(verdict: Verdict) -> dict[str, list[float]]:
    def scale(values: list[float | None]) -> list[float]:
        return [(value - verdict.null) / own_unit(verdict) for value in values if value is not None]

    return {
        "seeds": scale([*(verdict.differences or {}).values()]),
        "interval": scale([verdict.low_95, verdict.high_95]),
        "mean": scale([verdict.mean]),
    }


def _limits(scaled: Sequence[dict[str, list[float]]]) -> tuple[float, float]:
    everything = [value for row in scaled for values in row.values() for value in values] or [0.0]
    low, high = max(min(*everything, -0.5), FARTHEST[0]), min(max(*everything, 1.5), FARTHEST[1])
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _draw_row(axes: Axes, values: dict[str, list[float]], row: int, limits: tuple[float, float]) -> None:
    low, high = limits
    axes.plot([min(max(value, low), high) for value in values["interval"]], [row] * len(values["interval"]), color="#222222", linewidth=1.6)
    seeds = [min(max(value, low), high) for value in values["seeds"]]
    axes.plot(seeds, [row + 0.22] * len(seeds), "o", color="#222222", markersize=3.5, alpha=0.45, markeredgewidth=0, clip_on=False)
    for value in values["mean"]:
        at = min(max(value, low), high)
        axes.plot(at, row, "D", color="#222222", markersize=6, markeredgecolor="white", markeredgewidth=0.8, clip_on=False, zorder=3)
    everything = [value for part in values.values() for value in part]
    for edge, far, offset in ((low, min(everything, default=0.0), 0.012), (high, max(everything, default=0.0), -0.012)):
        if far < low if edge == low else far > high:
            arrow = "◀ {:.1f}" if edge == low else "{:.1f} ▶"
            axes.text(
                edge + offset * (high - low), row - 0.2, arrow.format(far).replace("-", "−"), size=7.5, va="bottom",
                ha="left" if edge == low else "right", color=GREY,
            )  # fmt: skip


def _row_label(verdict: Verdict) -> str:
    unit = threshold(verdict.smallest_effect or 0.0, verdict.unit)
    meaning = f"margin {unit}" if verdict.has_margin else f"matters from {unit}"
    return f"{verdict.id}  {verdict.says}\n{meaning}"


def _write_verdict(axes: Axes, verdict: Verdict, row: int) -> None:
    text, colour = verdict.verdict or "no verdict", VERDICT_COLOURS.get(verdict.verdict or "", GREY)
    axes.text(1.025, row, text, transform=axes.get_yaxis_transform(), va="center", color=ink(colour), fontweight="bold")


def draw_effect(axes: Axes, verdict: Verdict) -> None:
    """Draw every seed's effect on a vertical axis in its natural unit, their mean and interval, and what they are judged against."""
    scale = 100 if verdict.unit == "accuracy" else 1
    seeds = [_natural(value, verdict.unit, scale) for value in (verdict.differences or {}).values()]
    axes.plot([0.0] * len(seeds), seeds, "o", color="#222222", markersize=4, alpha=0.45, markeredgewidth=0)
    if verdict.low_95 is not None and verdict.high_95 is not None:
        bounds = [_natural(bound, verdict.unit, scale) for bound in (verdict.low_95, verdict.high_95)]
        axes.plot([0.25, 0.25], bounds, color="#222222", linewidth=1.6)
    if verdict.mean is not None:
        axes.plot(0.25, _natural(verdict.mean, verdict.unit, scale), "D", color="#222222", markersize=6, markeredgecolor="white")
        axes.text(0.4, _natural(verdict.mean, verdict.unit, scale), amount(verdict.mean, verdict.unit), va="center", size=8)
    if verdict.unit == "log_ratio":
        scale_by_ratios(axes)
    axes.axhline(_natural(verdict.null, verdict.unit, scale), color=GREY, linewidth=0.9)
    if verdict.smallest_effect is not None:
        axes.axhline(_natural(verdict.smallest_effect, verdict.unit, scale), color=GREY, linewidth=0.9, linestyle=":")
    axes.set(xlim=(-0.3, 1.3), xticks=[], title="Effect", ylabel=EFFECT_LABELS[verdict.unit])


EFFECT_LABELS = {"accuracy": "percentage points", "nats": "nats", "decades": "decades", "log_ratio": "ratio"}


def _natural(value: float, unit: str, scale: float) -> float:
    return math.exp(value) if unit == "log_ratio" else scale * value


def plot_band(axes: Axes, intervals: pd.DataFrame, colour: str) -> None:
    """Draw means over a numeric index as a line, and low_95 and high_95 as a band around it where they exist."""
    axes.plot(intervals.index, intervals["mean"], color=colour, linewidth=2, marker="o" if len(intervals) == 1 else "")
    axes.fill_between(intervals.index, intervals["low_95"], intervals["high_95"], color=colour, alpha=0.18, linewidth=0)
