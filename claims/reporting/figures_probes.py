"""Figures of what lies behind single claims: checks by hand, timings, variances under dropout, tiny batches."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.judging.contrasts import finished
from claims.reporting.figures import COLOURS, WIDTH, draw_effect
from claims.reporting.findings import Verdict
from pipeline.pages.plotting import GREY, LEVEL_COLOURS, ink, label_ends, scale_by_ratios
from pipeline.trials.notebook import BASELINE, BATCH_NORM

SMALLEST_SHOWN = 1e-9  # an error of exactly 0 stands here on a logarithmic axis
STATISTICS_COLOURS = {"no BN": COLOURS[0], "stored": COLOURS[1], "unbiased": "#CC79A7", "recalibrated": "#000000"}
KINDS = {"training_step": "training step", "forward_and_backward": "forward and backward", "inference": "inference"}
ARM_NAMES = {BASELINE: "no BN", BATCH_NORM: "BN", "batch_norm_folded": "BN, folded"}


def working_principle(checks: pd.DataFrame) -> Figure:
    """Largest error of each check by hand, for every layer, beside its tolerance, on a logarithmic axis."""
    names = list(dict.fromkeys(checks["check"]))
    figure = Figure(figsize=(WIDTH, 0.7 + 0.27 * len(names)))
    axes = figure.subplots()
    for row, name in enumerate(names):
        of_check = checks[checks["check"] == name]
        tolerance = of_check["tolerance"].dropna()
        errors = of_check["largest_error"].abs().clip(lower=SMALLEST_SHOWN)
        axes.plot(
            errors, [row] * len(errors), "o", color=COLOURS[1] if len(tolerance) else GREY, markersize=5, alpha=0.7, markeredgewidth=0
        )
        axes.plot(tolerance, [row] * len(tolerance), "|", color="#222222", markersize=12, markeredgewidth=1.6)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="largest absolute error (dots: layers; bars: tolerance; without one, shown only)")
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0)
    return figure


def timing(times: pd.DataFrame, verdict: Verdict) -> Figure:
    """Milliseconds of every block for each kind of step and arm, and the log ratios of training steps by block."""
    kinds = [kind for kind in KINDS if (times["what"] == kind).any()]
    figure = Figure(figsize=(WIDTH, 3.2))
    panels = figure.subplots(1, len(kinds) + 1, width_ratios=[1.2] * len(kinds) + [0.9])
    for axes, kind in zip(panels, kinds, strict=False):
        arms = [arm for arm in ARM_NAMES if ((times["what"] == kind) & (times["arm"] == arm)).any()]
        for place, arm in enumerate(arms):
            values = times.loc[(times["what"] == kind) & (times["arm"] == arm), "milliseconds"]
            spread = np.linspace(-0.18, 0.18, len(values))
            axes.plot(place + spread, values, "o", color=_timing_colour(arm), markersize=3, alpha=0.5, markeredgewidth=0)
            axes.plot([place - 0.25, place + 0.25], [values.median()] * 2, color=_timing_colour(arm), linewidth=2)
        axes.set_xticks(range(len(arms)), [ARM_NAMES[arm].replace(", ", ",\n") for arm in arms])
        axes.set(title=KINDS[kind].capitalize(), ylim=(0, None), xlim=(-0.5, len(arms) - 0.5))
    panels[0].set_ylabel("milliseconds")
    draw_effect(panels[-1], verdict)
    return figure


def _timing_colour(arm: str) -> str:
    return COLOURS[list(ARM_NAMES).index(arm)]


def variance_shift(ratios: pd.DataFrame, layers: Sequence[int], levels: Sequence[float]) -> Figure:
    """Moving over population variance by layer, at each dropout level: every seed, the mean, and the theory 1 / (1 − p)."""
    figure = Figure(figsize=(WIDTH, 3.2))
    axes = figure.subplots()
    for index, level in enumerate(levels):
        offset, colour = 0.22 * (index - (len(levels) - 1) / 2), LEVEL_COLOURS[index % len(LEVEL_COLOURS)]
        for layer in layers:
            values = ratios.loc[ratios["dropout"] == level, f"variance_ratio_{layer}"].dropna()
            axes.plot([layer + offset] * len(values), values, "o", color=colour, markersize=4, alpha=0.5, markeredgewidth=0)
            if len(values):
                axes.plot(layer + offset, values.mean(), "D", color=colour, markersize=6, markeredgecolor="white")
        theory = 1 / (1 - level)
        axes.axhline(theory, color=colour, linewidth=1.1, linestyle="--")
        axes.text(
            1.01, theory, f"dropout {level:g}: {theory:.2f}", color=ink(colour), va="center", fontweight="bold",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    axes.set_xticks(list(layers), [f"BN layer {layer}" for layer in layers])
    axes.set(xlim=(layers[0] - 0.5, layers[-1] + 0.5), ylabel="moving variance / population variance")
    return figure


def last_variance_ratios(dropout: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
    """Variance ratios of BN's trials after their last epoch, and the layers that have one."""
    trials = finished(dropout)
    trials = trials[trials["arm"] == BATCH_NORM]
    last = trials[trials["epoch"] == trials.groupby(["dropout", "seed"])["epoch"].transform("max")]
    columns = [column for column in map(str, last) if column.startswith("variance_ratio_") and last[column].notna().any()]
    return last[["dropout", "seed", *columns]], [int(column.rsplit("_", 1)[1]) for column in columns]


def tiny_batches(accuracies: pd.DataFrame, parts: pd.DataFrame, sizes: Sequence[int]) -> Figure:
    """Validation accuracy by batch size with each kind of statistics, and what BN's loss at the smallest size is made of."""
    figure = Figure(figsize=(WIDTH, 3.4))
    levels, split = figure.subplots(1, 2, width_ratios=(1.5, 1))
    places = {size: place for place, size in enumerate(sizes)}
    ends = []
    for name, colour in STATISTICS_COLOURS.items():
        by_size = 100 * accuracies[name].unstack("seed")  # noqa: PD010 - a line for each seed
        by_size.index = by_size.index.map(places)
        levels.plot(by_size.index, by_size, color=colour, linewidth=0.6, alpha=0.45)
        mean = by_size.mean(axis="columns").dropna()
        levels.plot(mean.index, mean, color=colour, linewidth=2, marker="o", markersize=4)
        if len(mean):
            ends.append((float(mean.iloc[-1]), name if name == "no BN" else f"BN, {name}", colour))
    if ends:
        label_ends(levels, ends)
    levels.set_xticks(range(len(sizes)), list(map(str, sizes)))
    levels.set(xlabel="batch size", ylabel="validation accuracy (%)", title="Every seed")
    _draw_parts(split, parts)
    return figure


def _draw_parts(axes: Axes, parts: pd.DataFrame) -> None:
    for row, name in enumerate(parts.columns):
        axes.plot(100 * parts[name], [row] * len(parts), "o", color="#222222", markersize=3.5, alpha=0.45, markeredgewidth=0)
        if len(parts):
            axes.plot(100 * parts[name].mean(), row, "D", color="#222222", markersize=6, markeredgecolor="white")
    axes.axvline(0, color=GREY, linewidth=0.9)
    axes.set_yticks(range(len(parts.columns)), [name.replace("moving-average ", "moving-average\n") for name in parts.columns])
    axes.set(ylim=(len(parts.columns) - 0.5, -0.5), xlabel="cost of tiny batches (points)", title="Made of")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def discrepancy(probes: pd.DataFrame) -> Figure:
    """Size of each layer's normalized values in inference over training mode, by batch size, with the theory's lines; accuracy in both."""
    steps = sorted(set(probes["step"]))
    figure = Figure(figsize=(WIDTH, 3.4))
    panels = figure.subplots(1, len(steps) + 1)
    for axes, step in zip(panels, steps, strict=False):
        of_step = probes[probes["step"] == step]
        ends = []
        for layer, rows in of_step.sort_values("batch_size").groupby("layer"):
            colour = LEVEL_COLOURS[(int(str(layer).split(".")[0]) - 1) % len(LEVEL_COLOURS)]
            axes.plot(rows["batch_size"], rows["theory"], color=colour, linewidth=1.2)
            axes.plot(rows["batch_size"], rows["rms_ratio"], "o", color=colour, markersize=4)
            ends.append((float(rows["theory"].iloc[0]), f"layer {layer:g}", colour))
        for height, text, colour in ends:
            axes.annotate(text, (of_step["batch_size"].min(), height), (5, 3), textcoords="offset points", color=ink(colour), size=8)
        axes.set_title(f"After step {step:,}" if step else "At initialization")
        scale_by_ratios(axes)
        _scale_sizes(axes, of_step["batch_size"])
    panels[0].set_ylabel("RMS ratio (lines: theory)")
    _draw_modes(panels[-1], probes[probes["step"] == steps[-1]])
    return figure


def _draw_modes(axes: Axes, probes: pd.DataFrame) -> None:
    once = probes.drop_duplicates("batch_size").sort_values("batch_size")
    modes = {"training": COLOURS[1], "inference": "#000000"}
    for row, (mode, colour) in enumerate(modes.items()):
        axes.plot(once["batch_size"], 100 * once[f"accuracy_{mode}_mode"], color=colour, marker="o", markersize=4, linewidth=1.2)
        axes.text(0.98, 0.13 - 0.08 * row, f"{mode} mode", transform=axes.transAxes, color=ink(colour), ha="right", fontweight="bold")
    axes.set(ylabel="accuracy (%)", title=f"After step {probes['step'].iloc[0]:,}")
    _scale_sizes(axes, once["batch_size"])


def _scale_sizes(axes: Axes, sizes: "pd.Series[int]") -> None:
    measured = sorted(set(sizes))
    axes.set_xscale("log")
    axes.set_xticks(measured[::2], list(map(str, measured[::2])))
    axes.set_xticks([], minor=True)
    axes.set_xlabel("batch size")
