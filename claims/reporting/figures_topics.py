"""Figures of the report's topics: curves of the core study, networks under probe, checks, timings, variances, tiny batches."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.judging.effects import interval
from claims.judging.verdicts import JudgedClaim
from claims.reporting.contrasts import finished
from claims.reporting.figures import BLACK, COLOURS, WIDTH, arm_colour, draw_effect, draw_levels
from claims.reporting.words import arm_name, column_label, optimizer_name
from pipeline.pages.plotting import GREY, LEVEL_COLOURS, colour_of, ink, label_ends, plot_seeds, scale_by_ratios
from pipeline.trials.notebook import BASELINE, BATCH_NORM
from pipeline.trials.studies import Study

COLOURS_OF_ARMS = dict(zip((BASELINE, BATCH_NORM), COLOURS, strict=False))
SPEED_SCALES = {"epoch": "epochs", "updates": "weight updates (thousands)", "seconds": "seconds of training steps"}
PART_COLOURS = (BLACK, *LEVEL_COLOURS[:3])
SMALLEST_SHOWN = 1e-9  # an error of exactly 0 stands here on a logarithmic axis
STATISTICS_COLOURS = {"no BN": COLOURS[0], "stored": COLOURS[1], "unbiased": "#CC79A7", "recalibrated": "#000000"}
KINDS = {"training_step": "Training step", "forward_and_backward": "Forward and backward", "inference": "Inference"}
ARM_NAMES = {BASELINE: "no BN", BATCH_NORM: "BN", "batch_norm_folded": "BN,\nfolded"}


def early_validation(parts: pd.DataFrame) -> Figure:
    """Draw BN − no BN in validation accuracy over epochs, and the parts that add up to it: seeds, means and 95 % intervals."""
    figure = Figure(figsize=(WIDTH, 2.9))
    panels = figure.subplots(1, len(parts.columns), sharey=True)
    for axes, part, colour in zip(panels, parts.columns, PART_COLOURS, strict=True):
        by_seed = 100 * parts[part].unstack("seed")  # noqa: PD010 - a line for each seed
        axes.plot(by_seed.index, by_seed, color=colour, linewidth=0.6, alpha=0.45)
        found = {epoch: interval(of_epoch) for epoch, of_epoch in (100 * parts[part]).groupby(level="epoch")}
        bands = pd.DataFrame.from_dict(found, orient="index").reindex(columns=["mean", "low_95", "high_95"])
        axes.plot(bands.index, bands["mean"], color=colour, linewidth=2, marker="o" if len(bands) == 1 else "")
        axes.fill_between(bands.index, bands["low_95"], bands["high_95"], color=colour, alpha=0.18, linewidth=0)
        axes.axhline(0, color=GREY, linewidth=0.9)
        axes.set_title(("" if part == parts.columns[0] else "= " if part == parts.columns[1] else "+ ") + str(part), color=ink(colour))
        axes.set_xlabel("epoch")
    panels[0].set_ylabel("BN − no BN (percentage points)")
    return figure


def _draw_curves(
    axes: Axes, trials: pd.DataFrame, x: str, column: str, colours: Mapping[Any, str], by: str = "arm"
) -> list[tuple[float, str, str]]:
    """Draw seeds and mean, in percent, of each arm or size (`by`) that has trials, and return what their ends are labelled with."""
    shown = trials.assign(shown=100 * trials[column])
    present = [(each, colour) for each, colour in colours.items() if (shown[by] == each).any()]
    return [(plot_seeds(axes, shown[shown[by] == each], x, "shown", colour), arm_name(str(each)), colour) for each, colour in present]


def speed(core: pd.DataFrame, updates_per_epoch: int, milliseconds: Mapping[str, float], level: float) -> Figure:
    """Draw the validation accuracy of both arms, as stored and recalibrated, against epochs, updates and the time of training steps.

    `milliseconds` is each arm's median training step; `level` the accuracy whose reaching counts, a share of 1.
    """
    history = finished(core)
    updates = history["epoch"] * updates_per_epoch
    history = history.assign(updates=updates / 1e3, seconds=updates * history["arm"].map(milliseconds) / 1e3)
    figure = Figure(figsize=(WIDTH, 5.2))
    rows = figure.subplots(2, 3, sharex="col", sharey=True)
    for row, column in zip(rows, ("val_accuracy", "val_accuracy_recalibrated"), strict=True):
        for axes, x in zip(row, SPEED_SCALES, strict=True):
            ends = _draw_curves(axes, history, x, column, COLOURS_OF_ARMS)
            axes.axhline(100 * level, color=GREY, linewidth=0.9, linestyle=":")
        label_ends(row[-1], ends)
        row[0].set_ylabel(column_label(column).replace(", ", ",\n"))
    for axes, label in zip(rows[-1], SPEED_SCALES.values(), strict=True):
        axes.set_xlabel(label)
    return figure


def all_arms(trials: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Draw the accuracy of every arm of a study over epochs, on training and on validation images."""
    colours = {arm: arm_colour(arm, arms) for arm in arms}
    panels = {"Training": (trials, "train_eval_accuracy"), "Validation": (trials, "val_accuracy")}
    return _draw_side_by_side(panels, colours, "arm", "epoch", "accuracy (%)")


def continued_training(continued: pd.DataFrame, fresh: pd.DataFrame, sizes: Sequence[int]) -> Figure:
    """Draw validation accuracy of one model trained on through batch sizes, beside that of fresh models, as a chart by size shows them.

    The epochs of the former are those at its `batch_size`.
    """
    colours = {size: colour_of(size, sizes, LEVEL_COLOURS) for size in sizes}
    panels = {"One model, trained on": (continued, "val_accuracy"), "A fresh model for each size": (fresh, "val_accuracy")}
    return _draw_side_by_side(panels, colours, "batch_size", "epoch at the batch size", column_label("val_accuracy"))


def _draw_side_by_side(
    panels: Mapping[str, tuple[pd.DataFrame, str]], colours: Mapping[Any, str], by: str, xlabel: str, ylabel: str
) -> Figure:
    """Draw a column of trials over epochs in each panel, given by its title."""
    figure = Figure(figsize=(WIDTH, 3.6))
    row = figure.subplots(1, len(panels), sharey=True, sharex=True)
    drawn = zip(row, panels.values(), strict=True)
    ends = [_draw_curves(axes, trials, "epoch", column, colours, by) for axes, (trials, column) in drawn]
    for axes, title, ends_here in zip(row, panels, ends, strict=True):
        label_ends(axes, ends_here)
        axes.set(title=title, xlabel=xlabel)
    row[0].set_ylabel(ylabel)
    return figure


def learning_rates(last: pd.DataFrame, study: Study, column: str) -> Figure:
    """Draw a column after the last epoch over learning rates, for every arm and seed, diverged trials included."""
    figure = Figure(figsize=(WIDTH, 3.2))
    axes = figure.subplots()
    draw_levels(axes, last.assign(**{column: 100 * last[column]}), "learning_rate", column, study)
    axes.set_ylabel(column_label(column))
    return figure


def drift(probes: pd.DataFrame) -> Figure:
    """Draw how far mean and standard deviation of each layer's input moved since the sample before."""
    return _by_layer(probes, {"mean_shift": "mean |Δμ| / σ", "log_sd_shift": "mean |Δ ln σ|"}, is_log=True)


def gradient_shift(probes: pd.DataFrame) -> Figure:
    """Draw how much a layer's gradient changes by the update of the layers below it."""
    return _by_layer(probes, {"relative_change": "‖G − G′‖ / ‖G‖", "cosine": "cosine of G and G′"})


def units(probes: pd.DataFrame) -> Figure:
    """Draw the shares of units that are never, hardly ever and always active, in percent."""
    shares = probes.assign(**{name: 100 * probes[name] for name in ("dead", "nearly_dead", "always_on")})
    return _by_layer(shares, {"dead": "dead (%)", "nearly_dead": "nearly dead (%)", "always_on": "always on (%)"})


def landscape(probes: pd.DataFrame) -> Figure:
    """Draw the range of the loss and the largest effective smoothness, along the gradient and along the optimizer's step."""
    figure = Figure(figsize=(WIDTH, 4.6))
    directions = list(dict.fromkeys(probes["direction"]))
    grid = figure.subplots(2, len(directions), sharex=True, squeeze=False)
    for (losses, smoothness), direction in zip(grid.T, directions, strict=True):
        ends = []
        for arm, colour in COLOURS_OF_ARMS.items():
            by_step = probes[(probes["direction"] == direction) & (probes["arm"] == arm)].groupby("step")
            lowest, largest = by_step["loss"].min(), by_step["effective_smoothness"].max()
            losses.fill_between(lowest.index, lowest, by_step["loss"].max(), color=colour, alpha=0.35, linewidth=0)
            smoothness.plot(largest.index, largest, color=colour, linewidth=1.6, marker=".")
            ends.append((float(largest.iloc[-1]), arm_name(arm), colour))
        losses.set_title(f"Along {'the gradient' if direction == 'gradient' else f'the step of {optimizer_name(direction)}'}")
        smoothness.set_xlabel("updates")
        scale_by_ratios(smoothness)
        label_ends(smoothness, ends)
    _scale_steps(grid.flat, probes)
    grid[0, 0].set_ylabel("loss: lowest to\nhighest (nats)")
    grid[1, 0].set_ylabel("largest effective\nsmoothness")
    return figure


def _by_layer(probes: pd.DataFrame, measures: dict[str, str], *, is_log: bool = False) -> Figure:
    """Draw a row of panels for each measure, a column for each layer."""
    layers = sorted(set(probes["layer"]))
    figure = Figure(figsize=(WIDTH, 0.7 + 1.75 * len(measures)))
    grid = figure.subplots(len(measures), len(layers), sharex=True, sharey="row", squeeze=False)
    for row, (measure, label) in zip(grid, measures.items(), strict=True):
        for axes, layer in zip(row, layers, strict=True):
            ends = []
            for arm, colour in COLOURS_OF_ARMS.items():
                shown = probes[(probes["arm"] == arm) & (probes["layer"] == layer)].sort_values("step")
                axes.plot(shown["step"], shown[measure], color=colour, linewidth=1.6, marker=".")
                ends.append((float(shown[measure].iloc[-1]), arm_name(arm), colour))
        if is_log:
            scale_by_ratios(row[0])
        label_ends(row[-1], ends)
        row[0].set_ylabel(label)
    for top, bottom, layer in zip(grid[0], grid[-1], layers, strict=True):
        top.set_title(f"Layer {layer:g}")
        bottom.set_xlabel("updates")
    _scale_steps(grid.flat, probes)
    return figure


def _scale_steps(panels: Iterable[Axes], probes: pd.DataFrame) -> None:
    """Steps are sampled ever more sparsely: a logarithmic axis, with 0 on it."""
    first = min((step for step in probes["step"] if step > 0), default=1)
    for axes in panels:
        axes.set_xscale("symlog", linthresh=first)
        axes.set_xlim(left=-0.3)


def working_principle(checks: pd.DataFrame) -> Figure:
    """Draw the largest error of each check by hand, for every layer, beside its tolerance, on a logarithmic axis."""
    names = list(dict.fromkeys(checks["check"]))
    figure = Figure(figsize=(WIDTH, 0.7 + 0.27 * len(names)))
    axes = figure.subplots()
    for row, name in enumerate(names):
        of_check = checks[checks["check"] == name]
        tolerance = of_check["tolerance"].dropna()
        errors = of_check["largest_error"].abs().clip(lower=SMALLEST_SHOWN)
        colour = COLOURS[1] if len(tolerance) else GREY
        axes.plot(errors, [row] * len(errors), "o", color=colour, markersize=5, alpha=0.7, markeredgewidth=0)
        axes.plot(tolerance, [row] * len(tolerance), "|", color=BLACK, markersize=12, markeredgewidth=1.6)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="largest absolute error (dots: layers; bars: tolerance; without one, shown only)")
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0)
    return figure


def timing(times: pd.DataFrame, row: JudgedClaim) -> Figure:
    """Draw the milliseconds of every block for each kind of step and arm, and the log ratios of training steps by block."""
    figure = Figure(figsize=(WIDTH, 3.2))
    panels = figure.subplots(1, len(KINDS) + 1, width_ratios=[1.2] * len(KINDS) + [0.9])
    for axes, (kind, title) in zip(panels, KINDS.items(), strict=False):
        by_arm = times[times["what"] == kind].groupby("arm", sort=False)["milliseconds"]
        for place, (arm, values) in enumerate(by_arm):
            colour = COLOURS[list(ARM_NAMES).index(str(arm))]
            axes.plot(place + np.linspace(-0.18, 0.18, len(values)), values, "o", color=colour, markersize=3, alpha=0.5, markeredgewidth=0)
            axes.plot([place - 0.25, place + 0.25], [values.median()] * 2, color=colour, linewidth=2)
        axes.set_xticks(range(len(by_arm)), [ARM_NAMES[str(arm)] for arm, _ in by_arm])
        axes.set(title=title, ylim=(0, None), xlim=(-0.5, len(by_arm) - 0.5))
    panels[0].set_ylabel("milliseconds")
    draw_effect(panels[-1], row)
    return figure


def variance_shift(ratios: pd.DataFrame, layers: Sequence[int], levels: Sequence[float]) -> Figure:
    """Draw moving variance over population variance by layer, at each dropout level: every seed, the mean, and the theory 1 / (1 − p)."""
    figure = Figure(figsize=(WIDTH, 3.2))
    axes = figure.subplots()
    for index, level in enumerate(levels):
        offset, colour = 0.22 * (index - (len(levels) - 1) / 2), LEVEL_COLOURS[index % len(LEVEL_COLOURS)]
        for layer in layers:
            values = ratios.loc[ratios["dropout"] == level, f"variance_ratio_{layer}"].dropna()
            axes.plot([layer + offset] * len(values), values, "o", color=colour, markersize=4, alpha=0.5, markeredgewidth=0)
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


def tiny_batches(accuracies: pd.DataFrame, parts: pd.DataFrame, sizes: Sequence[int]) -> Figure:
    """Draw validation accuracy by batch size with each kind of statistics, and what BN's loss at the smallest size is made of."""
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
    label_ends(levels, ends)
    levels.set_xticks(range(len(sizes)), list(map(str, sizes)))
    levels.set(xlabel="batch size", ylabel="validation accuracy (%)", title="Every seed")
    for row, name in enumerate(parts.columns):
        split.plot(100 * parts[name], [row] * len(parts), "o", color=BLACK, markersize=3.5, alpha=0.45, markeredgewidth=0)
        split.plot(100 * parts[name].mean(), row, "D", color=BLACK, markersize=6, markeredgecolor="white")
    split.axvline(0, color=GREY, linewidth=0.9)
    split.set_yticks(range(len(parts.columns)), [name.replace("moving-average ", "moving-average\n") for name in parts.columns])
    split.set(ylim=(len(parts.columns) - 0.5, -0.5), xlabel="cost of tiny batches (points)", title="Made of")
    split.grid(visible=True, axis="x")
    split.grid(visible=False, axis="y")
    return figure


def discrepancy(probes: pd.DataFrame) -> Figure:
    """Draw the size of normalized values in inference over training mode, by layer and batch size, with theory, and accuracy in both."""
    steps = sorted(set(probes["step"]))
    figure = Figure(figsize=(WIDTH, 3.4))
    panels = figure.subplots(1, len(steps) + 1)
    for axes, step in zip(panels, steps, strict=False):
        of_step = probes[probes["step"] == step]
        for index, (layer, rows) in enumerate(of_step.sort_values("batch_size").groupby("layer")):
            colour, start = LEVEL_COLOURS[index % len(LEVEL_COLOURS)], (rows["batch_size"].iloc[0], rows["theory"].iloc[0])
            axes.plot(rows["batch_size"], rows["theory"], color=colour, linewidth=1.2)
            axes.plot(rows["batch_size"], rows["rms_ratio"], "o", color=colour, markersize=4)
            axes.annotate(f"layer {layer:g}", start, (5, 3), textcoords="offset points", color=ink(colour), size=8)
        axes.set_title(f"After step {step:,}" if step else "At initialization")
        scale_by_ratios(axes)
        _scale_sizes(axes, of_step["batch_size"])
    panels[0].set_ylabel("RMS ratio (lines: theory)")
    once, accuracy = of_step.drop_duplicates("batch_size").sort_values("batch_size"), panels[-1]  # at the last step
    for row, (mode, colour) in enumerate({"training": COLOURS[1], "inference": "#000000"}.items()):
        accuracy.plot(once["batch_size"], 100 * once[f"accuracy_{mode}_mode"], color=colour, marker="o", markersize=4, linewidth=1.2)
        place = {"transform": accuracy.transAxes, "ha": "right"}
        accuracy.text(0.98, 0.13 - 0.08 * row, f"{mode} mode", color=ink(colour), fontweight="bold", **place)
    accuracy.set(ylabel="accuracy (%)", title=f"After step {steps[-1]:,}")
    _scale_sizes(accuracy, once["batch_size"])
    return figure


def _scale_sizes(axes: Axes, sizes: "pd.Series[int]") -> None:
    measured = sorted(set(sizes))
    axes.set_xscale("log")
    axes.set_xticks(measured[::2], list(map(str, measured[::2])))
    axes.set_xticks([], minor=True)
    axes.set_xlabel("batch size")
