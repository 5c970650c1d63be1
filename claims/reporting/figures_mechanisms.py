"""Figures of what was probed inside one pair of networks while they trained; both arms in every panel."""

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.reporting.figures import WIDTH, arm_colour
from claims.reporting.phrases import arm_name
from pipeline.pages.plotting import label_ends, scale_by_ratios
from pipeline.trials.notebook import BASELINE, BATCH_NORM

ARMS = (BASELINE, BATCH_NORM)


def drift(probes: pd.DataFrame) -> Figure:
    """How far mean and standard deviation of each layer's input moved since the sample before."""
    return _by_layer(probes, {"mean_shift": "mean |Δμ| / σ", "log_sd_shift": "mean |Δ ln σ|"}, is_log=True)


def gradient_shift(probes: pd.DataFrame) -> Figure:
    """How much a layer's gradient changes by the update of the layers below it."""
    return _by_layer(probes, {"relative_change": "‖G − G′‖ / ‖G‖", "cosine": "cosine of G and G′"}, is_log=False)


def units(probes: pd.DataFrame) -> Figure:
    """Shares of units that are never, hardly ever and always active, in percent."""
    shares = probes.assign(**{name: 100 * probes[name] for name in ("dead", "nearly_dead", "always_on")})
    return _by_layer(shares, {"dead": "dead (%)", "nearly_dead": "nearly dead (%)", "always_on": "always on (%)"}, is_log=False)


def landscape(probes: pd.DataFrame) -> Figure:
    """Along the gradient and along Adam's step: the range of the loss, and the largest effective smoothness."""
    figure = Figure(figsize=(WIDTH, 4.6))
    directions = list(dict.fromkeys(probes["direction"]))
    grid = figure.subplots(2, len(directions), sharex=True, squeeze=False)
    for column, direction in enumerate(directions):
        ends = []
        for arm in ARMS:
            by_step = probes[(probes["direction"] == direction) & (probes["arm"] == arm)].groupby("step")
            ranges, colour = by_step["loss"].agg(["min", "max"]), arm_colour(arm, ARMS)
            grid[0, column].fill_between(ranges.index, ranges["min"], ranges["max"], color=colour, alpha=0.35, linewidth=0)
            smoothness = by_step["effective_smoothness"].max()
            grid[1, column].plot(smoothness.index, smoothness, color=colour, linewidth=1.6, marker=".")
            if len(smoothness):
                ends.append((float(smoothness.iloc[-1]), arm_name(arm), colour))
        grid[0, column].set_title(f"Along {'the gradient' if direction == 'gradient' else f'the step of {direction.capitalize()}'}")
        grid[1, column].set_xlabel("updates")
        scale_by_ratios(grid[1, column])
        label_ends(grid[1, column], ends)
    _scale_steps(grid.flat, probes)
    grid[0, 0].set_ylabel("loss: lowest to\nhighest (nats)")
    grid[1, 0].set_ylabel("largest effective\nsmoothness")
    return figure


def _by_layer(probes: pd.DataFrame, measures: dict[str, str], *, is_log: bool) -> Figure:
    """A row of panels for each measure, a column for each layer."""
    layers = sorted(set(probes["layer"]))
    figure = Figure(figsize=(WIDTH, 0.7 + 1.75 * len(measures)))
    grid = figure.subplots(len(measures), len(layers), sharex=True, sharey="row", squeeze=False)
    for row, (measure, label) in zip(grid, measures.items(), strict=True):
        for axes, layer in zip(row, layers, strict=True):
            ends = []
            for arm in ARMS:
                shown = probes[(probes["arm"] == arm) & (probes["layer"] == layer)].sort_values("step")
                axes.plot(shown["step"], shown[measure], color=arm_colour(arm, ARMS), linewidth=1.6, marker=".")
                if len(shown):
                    ends.append((float(shown[measure].iloc[-1]), arm_name(arm), arm_colour(arm, ARMS)))
        if is_log:
            scale_by_ratios(row[0])
        label_ends(row[-1], ends)
        row[0].set_ylabel(label)
    for axes, layer in zip(grid[0], layers, strict=True):
        axes.set_title(f"Layer {layer:g}")
    for axes in grid[-1]:
        axes.set_xlabel("updates")
    _scale_steps(grid.flat, probes)
    return figure


def _scale_steps(panels: Iterable[Axes], probes: pd.DataFrame) -> None:
    """Steps are sampled ever more sparsely: a logarithmic axis, with 0 on it."""
    first = min((step for step in probes["step"] if step > 0), default=1)
    for axes in panels:
        axes.set_xscale("symlog", linthresh=max(first, 1))
        axes.set_xlim(left=-0.3)
