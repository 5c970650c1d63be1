"""The report's figures: each function takes what it shows and returns a matplotlib figure.

Every seed is visible; accuracies are in percent, losses in nats.
"""

import math
from collections.abc import Sequence
from itertools import product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.common.statistics import paired_difference
from pipeline.images.cifar10 import CLASSES
from pipeline.pages.plotting import ARM_COLOURS, GREY, LEVEL_COLOURS, colour_of, ink, label_ends, plot_points, plot_seeds, scale_by_ratios
from pipeline.pages.wording import arm_label
from pipeline.training.config import updates_per_epoch
from pipeline.trials.notebook import BASELINE, BATCH_NORM

UNITS = {"accuracy": "accuracy (%)", "loss": "cross-entropy (nats)"}  # losses on logarithmic axes: a single peak leaves room for the rest


def learning_curves(train: pd.DataFrame, arms: Sequence[str], metric: str) -> Figure:
    """`accuracy` or `loss` over epochs, training beside validation, for each arm."""
    history = _in_percent(train)
    figure = Figure(figsize=(8.2, 3.4))
    panels = figure.subplots(1, 2, sharey=True)
    ends = [_plot_arms(axes, history, arms, f"{split}_{metric}") for axes, split in zip(panels, ("train_eval", "val"), strict=True)]
    for arm in arms:
        running = history[history["arm"] == arm].groupby("epoch")[metric].mean()
        panels[0].plot(running.index, running, color=colour_of(arm, arms, ARM_COLOURS), linewidth=1.1, linestyle=":")
    if metric == "loss":
        scale_by_ratios(panels[0])
    for axes, title, ends_here in zip(panels, ("Training", "Validation"), ends, strict=True):
        axes.set(title=title, xlabel="epoch")
        label_ends(axes, ends_here)
    panels[0].set_ylabel(UNITS[metric])
    return figure


def _plot_arms(axes: Axes, history: pd.DataFrame, arms: Sequence[str], column: str) -> list[tuple[float, str, str]]:
    """Draw each arm's seeds and mean over epochs; give what its end is labelled with."""
    colours = {arm: colour_of(arm, arms, ARM_COLOURS) for arm in arms}
    return [
        (plot_seeds(axes, history[history["arm"] == arm], "epoch", column, colour), arm_label(arm), colour)
        for arm, colour in colours.items()
    ]


def paired_differences(finals: dict[str, pd.DataFrame]) -> Figure:
    """Final accuracy of BN and no BN: every seed and mean, and the paired differences with their 95 % intervals.

    `finals` maps a row's label to shares indexed by seed, a column for each of the two arms.
    """
    figure = Figure(figsize=(8.2, 0.85 + 0.62 * len(finals)))
    levels, effects = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
    for row, values in enumerate(finals.values()):
        _draw_levels(levels, 100 * values, row)
        _draw_effect(effects, 100 * values, row)
    levels.set_yticks(range(len(finals)), finals)
    levels.set_ylim(len(finals) - 0.5, -0.75)
    for arm, offset in ((BASELINE, -0.13), (BATCH_NORM, 0.13)):
        colour = _arm_pair_colour(arm)
        place = 100 * next(iter(finals.values()))[arm].mean()
        levels.annotate(
            arm_label(arm), (place, offset), (0, 7 if arm == BASELINE else -15), textcoords="offset points", ha="center",
            color=ink(colour), fontweight="bold",
        )  # fmt: skip
    effects.axvline(0, color=GREY, linewidth=0.9)
    levels.set(title="After the last epoch", xlabel="accuracy (%)")
    effects.set(title="BN − no BN, 95 % interval", xlabel="difference (percentage points)")
    for axes in (levels, effects):
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    return figure


def _arm_pair_colour(arm: str) -> str:
    return colour_of(arm, (BASELINE, BATCH_NORM), ARM_COLOURS)


def _draw_levels(axes: Axes, values: pd.DataFrame, row: float) -> None:
    axes.plot([values[BASELINE], values[BATCH_NORM]], [[row - 0.13] * len(values), [row + 0.13] * len(values)], color="#BBBBBB", lw=0.6)
    for arm, offset in ((BASELINE, -0.13), (BATCH_NORM, 0.13)):
        plot_points(axes, values[arm], row + offset, _arm_pair_colour(arm))


def _draw_effect(axes: Axes, values: pd.DataFrame, row: float) -> None:
    difference = paired_difference(values[BATCH_NORM], values[BASELINE])
    if difference.low_95 is not None and difference.high_95 is not None:
        axes.plot([difference.low_95, difference.high_95], [row, row], color="#222222", linewidth=1.6)
    plot_points(axes, values[BATCH_NORM] - values[BASELINE], row, "#222222")


def recalibration(train: pd.DataFrame) -> Figure:
    """Validation of the BN arm with its moving averages and with recomputed population statistics, over epochs."""
    history = _in_percent(train)
    trials = history[history["arm"] == BATCH_NORM]
    figure = Figure(figsize=(8.2, 3.2))
    for axes, metric in zip(figure.subplots(1, 2), UNITS, strict=True):
        colour = _arm_pair_colour(BATCH_NORM)
        ends = [
            (plot_seeds(axes, trials, "epoch", f"val_{metric}", colour), "moving\naverages", colour),
            (plot_seeds(axes, trials, "epoch", f"val_{metric}_recalibrated", "#000000"), "recalibrated", "#000000"),
        ]
        axes.set(title=f"Validation {metric} of BN", xlabel="epoch", ylabel=UNITS[metric])
        if metric == "loss":
            scale_by_ratios(axes)
        label_ends(axes, ends)
    return figure


def batch_sizes(grid: pd.DataFrame, sizes: Sequence[int], images: int) -> Figure:
    """Validation accuracy and loss by batch size against epochs, weight updates and images seen."""
    updates = grid["batch_size"].map(lambda size: updates_per_epoch(images, size)) * grid["epoch"]
    history = _in_percent(grid).assign(updates=updates / 1e3, images=grid["epoch"] * images / 1e6)
    figure = Figure(figsize=(8.2, 5.2))
    rows = figure.subplots(2, 3, sharex="col", sharey="row")
    scales = {"epoch": "epochs", "updates": "weight updates (thousands)", "images": "images seen (millions)"}
    for row, metric in zip(rows, UNITS, strict=True):
        for axes, x in zip(row, scales, strict=True):
            ends = [(_plot_size(axes, history, size, sizes, x, metric), str(size), _size_colour(size, sizes)) for size in sizes]
        if metric == "loss":
            scale_by_ratios(row[0])
        label_ends(row[-1], ends)
        row[0].set_ylabel(f"validation {UNITS[metric]}")
    for axes, label in zip(rows[-1], scales.values(), strict=True):
        axes.set_xlabel(label)
    rows[0, 0].set_title("By batch size")
    return figure


def _size_colour(size: int, sizes: Sequence[int]) -> str:
    return colour_of(size, sizes, LEVEL_COLOURS)


def _plot_size(axes: Axes, history: pd.DataFrame, size: int, sizes: Sequence[int], x: str, metric: str) -> float:
    return plot_seeds(axes, history[history["batch_size"] == size], x, f"val_{metric}", _size_colour(size, sizes))


def confusion_matrices(counts: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Share of each actual class that was predicted as each class, in percent, for each arm."""
    columns = min(2, len(arms))
    rows = math.ceil(len(arms) / columns)
    figure = Figure(figsize=(4.1 * columns, 4.2 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, arm in zip(grid.flat, arms, strict=False):
        table = counts[counts["arm"] == arm].pivot_table(index="actual", columns="predicted", values="count", aggfunc="sum")
        shares = table.loc[list(CLASSES), list(CLASSES)]
        _draw_matrix(axes, 100 * shares.div(shares.sum(axis="columns"), axis="index"))
        axes.set(title=arm_label(arm), xlabel="predicted class")
    for axes in grid.flat[len(arms) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel("actual class")
    return figure


def _draw_matrix(axes: Axes, shares: pd.DataFrame) -> None:
    axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=100, edgecolors="white", linewidth=0.8)
    for row, values in enumerate(shares.to_numpy()):
        for column, share in enumerate(values):
            axes.text(
                column + 0.5, row + 0.5, f"{share:.0f}", ha="center", va="center", size=7.5, color="white" if share > 55 else "#222222"
            )
    centres = [index + 0.5 for index in range(len(shares))]
    axes.set_xticks(centres, shares.columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(centres, shares.index)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.set_aspect("equal")
    axes.set_ylim(len(shares), 0)


def class_scores(per_class: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """F1 on the test set for each class and arm, classes in the order of the first arm's mean."""
    order = per_class[per_class["arm"] == arms[0]].groupby("class")["f1"].mean().sort_values(kind="stable").index
    offsets = {arm: 0.13 * (2 * index - len(arms) + 1) for index, arm in enumerate(arms)}
    figure = Figure(figsize=(8.2, 4.4))
    axes = figure.subplots()
    for arm, (row, name) in product(arms, enumerate(order)):
        scores = per_class[(per_class["arm"] == arm) & (per_class["class"] == name)]
        plot_points(axes, scores["f1"], row - offsets[arm], colour_of(arm, arms, ARM_COLOURS))
    for index, arm in enumerate(arms):
        axes.text(0.01, 0.98 - 0.06 * index, arm_label(arm), color=ink(colour_of(arm, arms, ARM_COLOURS)), fontweight="bold", va="top",
                  transform=axes.transAxes)  # fmt: skip
    axes.set_yticks(range(len(order)), order)
    axes.set(xlabel="F1 on the test set (harmonic mean of precision and recall)")
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0)
    return figure


def _in_percent(history: pd.DataFrame) -> pd.DataFrame:
    shares = history.filter(like="accuracy")
    return history.assign(**{str(column): 100 * shares[column] for column in shares})
