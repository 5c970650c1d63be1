"""Figures of the report's chapters on curves: early validation, speed, the notebook's own error, all arms."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.judging.contrasts import finished, intervals_by_epoch
from claims.reporting.figures import WIDTH, arm_colour, plot_band
from claims.reporting.figures_claims import draw_levels
from claims.reporting.phrases import arm_name, column_label
from pipeline.pages.plotting import GREY, LEVEL_COLOURS, colour_of, ink, label_ends, plot_seeds
from pipeline.trials.notebook import BASELINE, BATCH_NORM
from pipeline.trials.studies import Study

SPEED_SCALES = {"epoch": "epochs", "updates": "weight updates (thousands)", "seconds": "seconds of training steps"}
PART_COLOURS = ("#222222", *LEVEL_COLOURS[:3])


def early_validation(parts: pd.DataFrame) -> Figure:
    """BN − no BN in validation accuracy over epochs, and the parts that add up to it: seeds, means and 95 % intervals."""
    figure = Figure(figsize=(WIDTH, 2.9))
    panels = figure.subplots(1, len(parts.columns), sharey=True)
    for axes, part, colour in zip(panels, parts.columns, PART_COLOURS, strict=True):
        by_seed = 100 * parts[part].unstack("seed")  # noqa: PD010 - a line for each seed
        axes.plot(by_seed.index, by_seed, color=colour, linewidth=0.6, alpha=0.45)
        plot_band(axes, intervals_by_epoch(100 * parts[part]), colour)
        axes.axhline(0, color=GREY, linewidth=0.9)
        axes.set_title(("" if part == parts.columns[0] else "= " if part == parts.columns[1] else "+ ") + str(part), color=ink(colour))
        axes.set_xlabel("epoch")
    panels[0].set_ylabel("BN − no BN (percentage points)")
    return figure


def speed(core: pd.DataFrame, updates_per_epoch: int, milliseconds: Mapping[str, float], level: float | None) -> Figure:
    """Validation accuracy of both arms, as stored and recalibrated, against epochs, updates and the time of training steps.

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
    """Draw each arm's seeds and mean; give what its end is labelled with."""
    shown = history.assign(shown=100 * history[column])
    return [
        (plot_seeds(axes, shown[shown["arm"] == arm], x, "shown", arm_colour(arm, arms)), arm_name(arm), arm_colour(arm, arms))
        for arm in arms
        if (shown["arm"] == arm).any()
    ]


def all_arms(core: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Accuracy of every arm of a study over epochs, on training and on validation images."""
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
    """A column after the last epoch over learning rates, for every arm and seed, diverged trials included."""
    figure = Figure(figsize=(WIDTH, 3.2))
    axes = figure.subplots()
    draw_levels(axes, last.assign(**{column: 100 * last[column]}), "learning_rate", column, study)
    axes.set_ylabel(column_label(column))
    return figure


def continued_training(history: pd.DataFrame, continued: str, fresh: Mapping[int, str], epochs_each: int) -> Figure:
    """Validation accuracy of one model trained on through batch sizes, beside that of fresh models, as a chart by size shows them.

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
    """Draw each size's seeds and mean; give what its end is labelled with."""
    colours = {size: colour_of(size, list(by_size), LEVEL_COLOURS) for size in by_size}
    return [
        (plot_seeds(axes, trials.assign(shown=100 * trials["val_accuracy"]), "epoch", "shown", colours[size]), str(size), colours[size])
        for size, trials in by_size.items()
        if not trials.empty
    ]
