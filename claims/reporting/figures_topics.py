"""Figures of the report's topics: curves of the core study, networks under probe, checks, timings, variances, tiny batches."""

from collections.abc import Iterable, Mapping, Sequence

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

ARMS = (BASELINE, BATCH_NORM)
SPEED_SCALES = {"epoch": "epochs", "updates": "weight updates (thousands)", "seconds": "seconds of training steps"}
PART_COLOURS = (BLACK, *LEVEL_COLOURS[:3])
SMALLEST_SHOWN = 1e-9  # an error of exactly 0 stands here on a logarithmic axis
STATISTICS_COLOURS = {"no BN": COLOURS[0], "stored": COLOURS[1], "unbiased": "#CC79A7", "recalibrated": "#000000"}
KINDS = {"training_step": "training step", "forward_and_backward": "forward and backward", "inference": "inference"}
ARM_NAMES = {BASELINE: "no BN", BATCH_NORM: "BN", "batch_norm_folded": "BN, folded"}


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


def speed(core: pd.DataFrame, updates_per_epoch: int, milliseconds: Mapping[str, float], level: float | None) -> Figure:
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
            ends = _draw_arms(axes, history, x, column, (BASELINE, BATCH_NORM))
            if level is not None:
                axes.axhline(100 * level, color=GREY, linewidth=0.9, linestyle=":")
        if ends:
            label_ends(row[-1], ends)
        row[0].set_ylabel(column_label(column).replace(", ", ",\n"))
    for axes, label in zip(rows[-1], SPEED_SCALES.values(), strict=True):
        axes.set_xlabel(label)
    return figure


def _draw_arms(axes: Axes, history: pd.DataFrame, x: str, column: str, arms: Sequence[str]) -> list[tuple[float, str, str]]:
    """Draw each arm's seeds and mean, and return what its end is labelled with."""
    shown = history.assign(shown=100 * history[column])
    return [
        (plot_seeds(axes, shown[shown["arm"] == arm], x, "shown", arm_colour(arm, arms)), arm_name(arm), arm_colour(arm, arms))
        for arm in arms
        if (shown["arm"] == arm).any()
    ]


def all_arms(core: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Draw the accuracy of every arm of a study over epochs, on training and on validation images."""
    figure = Figure(figsize=(WIDTH, 3.6))
    panels = figure.subplots(1, 2, sharey=True)
    columns = ("train_eval_accuracy", "val_accuracy")
    ends = [_draw_arms(axes, finished(core), "epoch", column, arms) for axes, column in zip(panels, columns, strict=True)]
    for axes, title, ends_here in zip(panels, ("Training", "Validation"), ends, strict=True):
        label_ends(axes, ends_here)
        axes.set(title=title, xlabel="epoch")
    panels[0].set_ylabel("accuracy (%)")
    return figure


def learning_rates(last: pd.DataFrame, study: Study, column: str) -> Figure:
    """Draw a column after the last epoch over learning rates, for every arm and seed, diverged trials included."""
    figure = Figure(figsize=(WIDTH, 3.2))
    axes = figure.subplots()
    draw_levels(axes, last.assign(**{column: 100 * last[column]}), "learning_rate", column, study)
    axes.set_ylabel(column_label(column))
    return figure


def continued_training(history: pd.DataFrame, continued: str, fresh: Mapping[int, str], epochs_each: int) -> Figure:
    """Draw validation accuracy of one model trained on through batch sizes, beside that of fresh models, as a chart by size shows them.

    `fresh` maps each size, in the order of training, to the arm that trained at this size alone.
    """
    trials = finished(history)
    on = trials[trials["arm"] == continued]
    stage, epoch = (on["epoch"] - 1) // epochs_each, (on["epoch"] - 1) % epochs_each + 1
    stages = {size: on.assign(epoch=epoch)[stage == place] for place, size in enumerate(fresh)}
    figure = Figure(figsize=(WIDTH, 3.6))
    panels = figure.subplots(1, 2, sharey=True, sharex=True)
    starts = (stages, {size: trials[trials["arm"] == arm] for size, arm in fresh.items()})
    ends = [_draw_sizes(axes, by_size) for axes, by_size in zip(panels, starts, strict=True)]
    for axes, title, ends_here in zip(panels, ("One model, trained on", "A fresh model for each size"), ends, strict=True):
        label_ends(axes, ends_here)
        axes.set(title=title, xlabel="epoch at the batch size")
    panels[0].set_ylabel(column_label("val_accuracy"))
    return figure


def _draw_sizes(axes: Axes, by_size: Mapping[int, pd.DataFrame]) -> list[tuple[float, str, str]]:
    """Draw each size's seeds and mean, and return what its end is labelled with."""
    colours = {size: colour_of(size, list(by_size), LEVEL_COLOURS) for size in by_size}
    return [
        (plot_seeds(axes, trials.assign(shown=100 * trials["val_accuracy"]), "epoch", "shown", colours[size]), str(size), colours[size])
        for size, trials in by_size.items()
        if not trials.empty
    ]


def drift(probes: pd.DataFrame) -> Figure:
    """Draw how far mean and standard deviation of each layer's input moved since the sample before."""
    return _by_layer(probes, {"mean_shift": "mean |Δμ| / σ", "log_sd_shift": "mean |Δ ln σ|"}, is_log=True)


def gradient_shift(probes: pd.DataFrame) -> Figure:
    """Draw how much a layer's gradient changes by the update of the layers below it."""
    return _by_layer(probes, {"relative_change": "‖G − G′‖ / ‖G‖", "cosine": "cosine of G and G′"}, is_log=False)


def units(probes: pd.DataFrame) -> Figure:
    """Draw the shares of units that are never, hardly ever and always active, in percent."""
    shares = probes.assign(**{name: 100 * probes[name] for name in ("dead", "nearly_dead", "always_on")})
    return _by_layer(shares, {"dead": "dead (%)", "nearly_dead": "nearly dead (%)", "always_on": "always on (%)"}, is_log=False)


def landscape(probes: pd.DataFrame) -> Figure:
    """Draw the range of the loss and the largest effective smoothness, along the gradient and along the optimizer's step."""
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
        grid[0, column].set_title(f"Along {'the gradient' if direction == 'gradient' else f'the step of {optimizer_name(direction)}'}")
        grid[1, column].set_xlabel("updates")
        scale_by_ratios(grid[1, column])
        label_ends(grid[1, column], ends)
    _scale_steps(grid.flat, probes)
    grid[0, 0].set_ylabel("loss: lowest to\nhighest (nats)")
    grid[1, 0].set_ylabel("largest effective\nsmoothness")
    return figure


def _by_layer(probes: pd.DataFrame, measures: dict[str, str], *, is_log: bool) -> Figure:
    """Draw a row of panels for each measure, a column for each layer."""
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


def working_principle(checks: pd.DataFrame) -> Figure:
    """Draw the largest error of each check by hand, for every layer, beside its tolerance, on a logarithmic axis."""
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
        axes.plot(tolerance, [row] * len(tolerance), "|", color=BLACK, markersize=12, markeredgewidth=1.6)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="largest absolute error (dots: layers; bars: tolerance; without one, shown only)")
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0)
    return figure


def timing(times: pd.DataFrame, row: JudgedClaim) -> Figure:
    """Draw the milliseconds of every block for each kind of step and arm, and the log ratios of training steps by block."""
    kinds = [kind for kind in KINDS if (times["what"] == kind).any()]
    figure = Figure(figsize=(WIDTH, 3.2))
    panels = figure.subplots(1, len(kinds) + 1, width_ratios=[1.2] * len(kinds) + [0.9])
    for axes, kind in zip(panels, kinds, strict=False):
        arms = [arm for arm in ARM_NAMES if ((times["what"] == kind) & (times["arm"] == arm)).any()]
        for place, arm in enumerate(arms):
            values = times.loc[(times["what"] == kind) & (times["arm"] == arm), "milliseconds"]
            spread = np.linspace(-0.18, 0.18, len(values))
            colour = COLOURS[list(ARM_NAMES).index(arm)]
            axes.plot(place + spread, values, "o", color=colour, markersize=3, alpha=0.5, markeredgewidth=0)
            axes.plot([place - 0.25, place + 0.25], [values.median()] * 2, color=colour, linewidth=2)
        axes.set_xticks(range(len(arms)), [ARM_NAMES[arm].replace(", ", ",\n") for arm in arms])
        axes.set(title=KINDS[kind].capitalize(), ylim=(0, None), xlim=(-0.5, len(arms) - 0.5))
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
    if ends:
        label_ends(levels, ends)
    levels.set_xticks(range(len(sizes)), list(map(str, sizes)))
    levels.set(xlabel="batch size", ylabel="validation accuracy (%)", title="Every seed")
    for row, name in enumerate(parts.columns):
        split.plot(100 * parts[name], [row] * len(parts), "o", color=BLACK, markersize=3.5, alpha=0.45, markeredgewidth=0)
        if len(parts):
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
