"""Effects, names and lists as the report of the claims writes them."""

import math
import re
from collections.abc import Iterable, Mapping

from claims.judging.amounts import SPACE, amount, number_of, threshold, unit_name
from claims.judging.kinds import Measure
from pipeline.pages.wording import Figures, arm_label, number, percent
from pipeline.trials.notebook import BASELINE, BATCH_NORM


def effect(figures: Figures, unit: str) -> str:
    """Return an effect in its natural unit, with its interval."""
    if not figures:
        return "nothing measured"
    if "low_95" not in figures:
        return f"{amount(figures['mean'], unit)} (n{SPACE}={SPACE}{figures['n']}, no interval)"
    low, high = (number_of(figures[bound], unit) for bound in ("low_95", "high_95"))
    return f"{amount(figures['mean'], unit)} (95{SPACE}% interval {low} to {high})"


def effect_cell(figures: Figures, unit: str) -> str:
    """Return an effect in its natural unit, short enough for a table."""
    return bare_cell(figures, unit) + (unit_name(unit) if figures else "")


def bare_cell(figures: Figures, unit: str) -> str:
    """Return an effect for a table whose caption names the unit."""
    if not figures:
        return "–"
    bounds = f" [{number_of(figures['low_95'], unit)}, {number_of(figures['high_95'], unit)}]" if "low_95" in figures else ""
    return f"{number_of(figures['mean'], unit)}{bounds}"


def probability(p: float) -> str:
    """Return a p-value with its sign of equality, as exact as it is worth."""
    return f"<{SPACE}0.0001" if p < 0.0001 else f"={SPACE}{p:.4f}" if p < 0.1 else f"={SPACE}{p:.2f}"


def share(summary: Figures, digits: int = 1) -> str:
    """Return a share as mean ± SD in percent, or a dash when there is none."""
    return percent(summary, digits) if summary else "–"


def measured(summary: Figures, measure: Measure) -> str:
    """Return what a claim measures of each trial, as mean ± SD over trials; of logarithms, the geometric mean."""
    if not summary:
        return "–"
    if measure.unit == "log_ratio":
        return f"{math.exp(summary['mean']):.3g}"
    return percent(summary) if measure.unit == "accuracy" else number(summary)


def compared(values: Mapping[str, float]) -> str:
    """Return on which side the larger of two values is. Values that differ by less than a tenth count as about the same."""
    without, with_it = values[BASELINE], values[BATCH_NORM]
    if abs(with_it - without) <= 0.1 * max(abs(with_it), abs(without)):
        return "about the same with BN"
    return "more with BN" if with_it > without else "less with BN"


def ranges(numbers: Iterable[int]) -> str:
    """List ascending whole numbers, consecutive ones by their ends."""
    runs: list[list[int]] = []
    for whole in numbers:
        if runs and whole == runs[-1][-1] + 1:
            runs[-1].append(whole)
        else:
            runs.append([whole])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def join_words(words: list[str]) -> str:
    """List words as a sentence does."""
    return " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}"


def arm_name(arm: str) -> str:
    """Return the short name of an arm. Those with Batch Normalization say so in the same two letters."""
    return arm_label(arm).replace("batch norm", "BN").replace("baseline", "no BN")


def column_label(column: str) -> str:
    """Return a column of a history as an axis names it."""
    found = re.fullmatch(r"(val_|train_eval_|)(accuracy|loss)_?(.*)", column)
    if not found:
        return column.replace("_", " ")
    images = {"val_": "validation", "train_eval_": "training", "": "running training"}[found[1]]
    name, unit = {"accuracy": ("accuracy", "%"), "loss": ("cross-entropy", "nats")}[found[2]]
    return f"{images} {name}{f', {found[3]}' if found[3] else ''} ({unit})"


def optimizer_name(optimizer: str) -> str:
    """Return the name of an optimizer as text has it."""
    return {"adam": "Adam", "sgd": "SGD"}.get(optimizer, optimizer)


def cited(citation: str) -> str:
    """Return a citation with a link, where it names an arXiv number."""
    found = re.fullmatch(r"(.*), arXiv:(\d{4}\.\d{4,5})", citation)
    return f"[{found[1]}](https://arxiv.org/abs/{found[2]})" if found else citation


FILTERS = (
    *(amount, threshold, effect, effect_cell, bare_cell, probability, share, measured, compared),
    *(ranges, join_words, arm_name, optimizer_name, cited),
)
