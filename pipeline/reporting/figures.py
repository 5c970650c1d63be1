"""The report's figures. Every seed is visible; accuracies are in percent, losses in nats."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.common.statistics import paired_difference
from pipeline.pages import plotting
from pipeline.pages.generated import FIGURES
from pipeline.pages.plotting import ARM_COLOURS, LEVEL_COLOURS, colour_of, draw, label_ends, plot_points, plot_seeds
from pipeline.pages.wording import arm_label
from pipeline.reporting.tables import Tables
from pipeline.trials.notebook import BASELINE, BATCH_NORM, GRID, TRAIN
from pipeline.trials.parameters import Parameters

UNITS = {"accuracy": "accuracy (%)", "loss": "cross-entropy (nats)"}  # losses on logarithmic axes: a single peak leaves room for the rest
PAIR = {arm: colour_of(arm, (BASELINE, BATCH_NORM), ARM_COLOURS) for arm in (BASELINE, BATCH_NORM)}
DARK = "#222222"


def draw_figures(parameters: Parameters, tables: Tables, updates: Mapping[int, int], images: int) -> dict[str, str]:
    """Draw every figure as SVG, by its path below reports/notebook.

    `updates` gives the weight updates of an epoch by batch size, `images` the number of training images.
    """
    arms, train, grid = parameters.studies[TRAIN].arms, _in_percent(tables.history_of(TRAIN)), _in_percent(tables.history_of(GRID))
    svgs = {
        "paired_differences": draw(draw_paired_differences, train, _in_percent(tables.tested("trials"))),
        "accuracy": draw(draw_learning_curves, train, arms, "accuracy"),
        "loss": draw(draw_learning_curves, train, arms, "loss"),
        "recalibration": draw(draw_recalibration, train),
        "batch_sizes": draw(draw_batch_sizes, grid, updates, images),
        "confusion_matrices": draw(draw_confusion_matrices, tables.evaluation["confusion_matrix"], arms),
        "class_scores": draw(draw_class_scores, tables.tested("per_class"), arms),
    }
    return {f"{FIGURES}/{name}.svg": svg for name, svg in svgs.items()}


def _in_percent(table: pd.DataFrame) -> pd.DataFrame:
    shares = table.filter(like="accuracy")
    return table.assign(**{str(column): 100 * shares[column] for column in shares})


def draw_paired_differences(train: pd.DataFrame, tested: pd.DataFrame) -> Figure:
    """Accuracy of BN and no BN after the last epoch: every seed and mean, and the paired differences with their 95 % intervals.

    Both tables have accuracies in percent: `train` one row per trial and epoch, `tested` one row per trial.
    """
    last = train[train["epoch"] == train["epoch"].max()]
    sources = {
        "training": (last, "train_eval_accuracy"),
        "validation": (last, "val_accuracy"),
        "validation,\nrecalibrated": (last, "val_accuracy_recalibrated"),
        "test": (tested, "accuracy"),
    }
    figure = Figure(figsize=(8.2, 0.85 + 0.62 * len(sources)))
    levels, effects = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
    for row, (table, column) in enumerate(sources.values()):
        values = table.pivot_table(index="seed", columns="arm", values=column)[[BASELINE, BATCH_NORM]].dropna()
        levels.plot(
            [values[BASELINE], values[BATCH_NORM]], [[row - 0.13] * len(values), [row + 0.13] * len(values)], color="#BBBBBB", lw=0.6
        )
        for arm, offset in ((BASELINE, -0.13), (BATCH_NORM, 0.13)):
            plot_points(levels, values[arm], row + offset, PAIR[arm])
            if row == 0:
                levels.annotate(
                    arm_label(arm), (values[arm].mean(), offset), (0, 7 if arm == BASELINE else -15), textcoords="offset points",
                    ha="center", color=plotting.ink(PAIR[arm]), fontweight="bold",
                )  # fmt: skip
        difference = paired_difference(values[BATCH_NORM], values[BASELINE])
        if difference.low_95 is not None and difference.high_95 is not None:
            effects.plot([difference.low_95, difference.high_95], [row, row], color=DARK, linewidth=1.6)
        plot_points(effects, values[BATCH_NORM] - values[BASELINE], row, DARK)
    levels.set_yticks(range(len(sources)), sources)
    levels.set_ylim(len(sources) - 0.5, -0.75)
    effects.axvline(0, color=plotting.GREY, linewidth=0.9)
    levels.set(title="After the last epoch", xlabel="accuracy (%)")
    effects.set(title="BN − no BN, 95 % interval", xlabel="difference (percentage points)")
    for axes in (levels, effects):
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    return figure


def draw_learning_curves(train: pd.DataFrame, arms: Sequence[str], metric: str) -> Figure:
    """`accuracy` or `loss` over epochs, training beside validation, for each arm."""
    figure = Figure(figsize=(8.2, 3.4))
    panels = figure.subplots(1, 2, sharey=True)
    colours = {arm: colour_of(arm, arms, ARM_COLOURS) for arm in arms}
    of_arm = {arm: train[train["arm"] == arm] for arm in arms}
    ends = [
        [(plot_seeds(axes, of_arm[arm], "epoch", f"{split}_{metric}", colours[arm]), arm_label(arm), colours[arm]) for arm in arms]
        for axes, split in zip(panels, ("train_eval", "val"), strict=True)
    ]
    for arm in arms:
        running = of_arm[arm].groupby("epoch")[metric].mean()
        panels[0].plot(running.index, running, color=colours[arm], linewidth=1.1, linestyle=":")
    if metric == "loss":
        plotting.scale_by_ratios(panels[0])
    for axes, title, ends_here in zip(panels, ("Training", "Validation"), ends, strict=True):
        axes.set(title=title, xlabel="epoch")
        label_ends(axes, ends_here)
    panels[0].set_ylabel(UNITS[metric])
    return figure


def draw_recalibration(train: pd.DataFrame) -> Figure:
    """Validation of the BN arm with its moving averages and with recomputed population statistics, over epochs."""
    trials = train[train["arm"] == BATCH_NORM]
    figure = Figure(figsize=(8.2, 3.2))
    for axes, metric in zip(figure.subplots(1, 2), UNITS, strict=True):
        ends = [
            (plot_seeds(axes, trials, "epoch", f"val_{metric}", PAIR[BATCH_NORM]), "moving\naverages", PAIR[BATCH_NORM]),
            (plot_seeds(axes, trials, "epoch", f"val_{metric}_recalibrated", "#000000"), "recalibrated", "#000000"),
        ]
        axes.set(title=f"Validation {metric} of BN", xlabel="epoch", ylabel=UNITS[metric])
        if metric == "loss":
            plotting.scale_by_ratios(axes)
        label_ends(axes, ends)
    return figure


def draw_batch_sizes(grid: pd.DataFrame, updates: Mapping[int, int], images: int) -> Figure:
    """Validation accuracy and loss by batch size against epochs, weight updates and images seen."""
    history = grid.assign(updates=grid["batch_size"].map(updates) * grid["epoch"] / 1e3, images=grid["epoch"] * images / 1e6)
    colours = {size: colour_of(size, list(updates), LEVEL_COLOURS) for size in updates}
    figure = Figure(figsize=(8.2, 5.2))
    rows = figure.subplots(2, 3, sharex="col", sharey="row")
    scales = {"epoch": "epochs", "updates": "weight updates (thousands)", "images": "images seen (millions)"}
    for row, metric in zip(rows, UNITS, strict=True):
        for axes, x in zip(row, scales, strict=True):
            ends = [
                (plot_seeds(axes, history[history["batch_size"] == size], x, f"val_{metric}", colours[size]), str(size), colours[size])
                for size in updates
            ]
        if metric == "loss":
            plotting.scale_by_ratios(row[0])
        label_ends(row[-1], ends)
        row[0].set_ylabel(f"validation {UNITS[metric]}")
    for axes, label in zip(rows[-1], scales.values(), strict=True):
        axes.set_xlabel(label)
    rows[0, 0].set_title("By batch size")
    return figure


def draw_confusion_matrices(counts: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Share of each actual class that was predicted as each class, in percent, for each arm. Classes stand in the table's order."""
    classes = list(counts["actual"].unique())
    columns = min(2, len(arms))
    rows = math.ceil(len(arms) / columns)
    figure = Figure(figsize=(4.1 * columns, 4.2 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, arm in zip(grid.flat, arms, strict=False):
        table = counts[counts["arm"] == arm].pivot_table(index="actual", columns="predicted", values="count", aggfunc="sum")
        table = table.loc[classes, classes]
        shares = 100 * table.div(table.sum(axis="columns"), axis="index")
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=100, edgecolors="white", linewidth=0.8)
        for (row, column), share in np.ndenumerate(shares.to_numpy(dtype=float)):
            colour = "white" if share > 55 else DARK
            axes.text(column + 0.5, row + 0.5, f"{share:.0f}", ha="center", va="center", size=7.5, color=colour)
        centres = [index + 0.5 for index in range(len(classes))]
        axes.set_xticks(centres, classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(centres, classes)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
        axes.set_aspect("equal")
        axes.set_ylim(len(classes), 0)
        axes.set(title=arm_label(arm), xlabel="predicted class")
    for axes in grid.flat[len(arms) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel("actual class")
    return figure


def draw_class_scores(per_class: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """F1 on the test set for each class and arm, classes in the order of the first arm's mean."""
    order = per_class[per_class["arm"] == arms[0]].groupby("class")["f1"].mean().sort_values(kind="stable").index
    figure = Figure(figsize=(8.2, 4.4))
    axes = figure.subplots()
    for index, arm in enumerate(arms):
        colour, offset = colour_of(arm, arms, ARM_COLOURS), 0.13 * (2 * index - len(arms) + 1)
        for row, name in enumerate(order):
            plot_points(axes, per_class.loc[(per_class["arm"] == arm) & (per_class["class"] == name), "f1"], row - offset, colour)
        axes.text(
            0.01, 0.98 - 0.06 * index, arm_label(arm), color=plotting.ink(colour), fontweight="bold", va="top", transform=axes.transAxes
        )
    axes.set_yticks(range(len(order)), order)
    axes.set(xlabel="F1 on the test set (harmonic mean of precision and recall)")
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0)
    return figure
