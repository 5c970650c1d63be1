"""Amounts, names and lists as the report of the claims writes them."""

import math
import re
from collections.abc import Iterable, Mapping

from claims.judging.measures import Measure
from claims.studies.parameters import Claim, Term
from pipeline.pages.wording import MINUS, SPACE, Figures, arm_label, number, percent
from pipeline.trials.notebook import BASELINE, BATCH_NORM

AS_STATED, NOT_AS_STATED = "true of x̂ only, in training", "not as stated"  # verdicts on a definition
UNITS = {"accuracy": (100, 2, "points"), "nats": (1, 3, "nats"), "decades": (1, 2, "decades")}  # scale, digits, name


def effect(figures: Figures, unit: str) -> str:
    """An effect in its natural unit, with its interval."""
    if not figures:
        return "nothing measured"
    if "low_95" not in figures:
        return f"{amount(figures['mean'], unit)} (n{SPACE}={SPACE}{figures['n']}, no interval)"
    return (
        f"{amount(figures['mean'], unit)} (95{SPACE}% interval {_number(figures['low_95'], unit)} to {_number(figures['high_95'], unit)})"
    )


def effect_cell(figures: Figures, unit: str) -> str:
    """An effect in its natural unit, short enough for a table."""
    return f"{bare_cell(figures, unit)}{_name(unit)}" if figures else "–"


def bare_cell(figures: Figures, unit: str) -> str:
    """An effect for a table whose caption names the unit."""
    if not figures:
        return "–"
    bounds = f" [{_number(figures['low_95'], unit)}, {_number(figures['high_95'], unit)}]" if "low_95" in figures else ""
    return f"{_number(figures['mean'], unit)}{bounds}"


def amount(value: float, unit: str) -> str:
    """One effect in its natural unit: points, nats, decades or, for logarithms of ratios, the ratio."""
    return f"{_number(value, unit)}{_name(unit)}"


def threshold(value: float, unit: str) -> str:
    """What an effect is compared with: as `amount`, but a plus goes without saying."""
    return amount(value, unit).removeprefix("+")


def _number(value: float, unit: str) -> str:
    if unit == "log_ratio":
        ratio = math.exp(value)
        return f"×{ratio:.2f}" if 0.095 <= ratio < 100 else f"×{ratio:.2g}"
    scale, digits, _ = UNITS[unit]
    return f"{value * scale:+.{digits}f}".replace("-", MINUS)


def _name(unit: str) -> str:
    return "" if unit == "log_ratio" else f"{SPACE}{UNITS[unit][2]}"


def orientation(claim: Claim) -> str | None:
    """What is taken from what, and which side of which effect speaks for a claim; None where there is no effect."""
    match claim.kind:
        case "exact":
            return None
        case "timed":
            difference = f"log({BATCH_NORM}) {MINUS} log({BASELINE})"
        case _:
            difference = " ".join(map(_signed, claim.effect)).removeprefix("+ ")
    return f"{difference}; above {threshold(claim.null_effect, claim.unit)} it speaks for the claim"


def _signed(term: Term) -> str:
    factor = "" if abs(term.weight) == 1 else f"{abs(term.weight):g}·"
    return f"{MINUS if term.weight < 0 else '+'} {factor}{term.arm}{_bracketed(term.level)}"


def _bracketed(level: Mapping[str, object]) -> str:
    return f" ({', '.join(f'{key} {value}' for key, value in level.items())})" if level else ""


def power_note(power: float | None, detectable: float | None, claim: Claim) -> str:
    """What test A, before correction, could have found with this number of seeds and this spread between them."""
    parts = []
    if power is not None and claim.smallest_effect is not None:
        smallest = threshold(claim.smallest_effect, claim.unit)
        parts.append(f"had the true effect been {smallest}, test A, before correction, would have rejected with a power of {power:.2f}")
    if detectable is not None:
        parts.append(f"with this spread and n, it rejects in 80{SPACE}% of cases for an effect of {threshold(detectable, claim.unit)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else "It needs a spread between seeds, of which there is none to judge by."


def probability(p: float | None) -> str:
    """A p-value with its sign of equality, as exact as it is worth."""
    if p is None:
        return f"={SPACE}–"
    return f"<{SPACE}0.0001" if p < 0.0001 else f"={SPACE}{p:.4f}" if p < 0.1 else f"={SPACE}{p:.2f}"


def share(summary: Figures, digits: int = 1) -> str:
    """A share as mean ± SD in percent, or a dash when there is none."""
    return percent(summary, digits) if summary else "–"


def measured(summary: Figures, measure: Measure) -> str:
    """What a claim measures of each trial, as mean ± SD over trials; of logarithms, the geometric mean of what they are of."""
    if not summary:
        return "–"
    if measure.unit == "log_ratio":
        return f"{math.exp(summary['mean']):.3g}"
    return percent(summary) if measure.unit == "accuracy" else number(summary)


def compared(values: Mapping[str, float]) -> str:
    """Say on which side the larger of two values is; what differs by less than a tenth counts as about the same."""
    without, with_it = values[BASELINE], values[BATCH_NORM]
    if abs(with_it - without) <= 0.1 * max(abs(with_it), abs(without)):
        return "about the same with BN"
    return "more with BN" if with_it > without else "less with BN"


def ranges(numbers: Iterable[int]) -> str:
    """List ascending whole numbers, those in a row by their ends."""
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
    """Short name of an arm; those with Batch Normalization say so in the same two letters."""
    return arm_label(arm).replace("batch norm", "BN").replace("baseline", "no BN")


def column_label(column: str) -> str:
    """A column of a history, as an axis names it."""
    of, _, rest = column.partition("eval_") if column.startswith("train_eval_") else column.partition("val_")
    images = "training" if of.startswith("train") else "validation"
    if not rest:
        return f"running training {column}"
    metric, _, how = rest.partition("_")
    name, unit = {"accuracy": ("accuracy", "%"), "loss": ("cross-entropy", "nats")}.get(metric, (metric, ""))
    return f"{images} {name}{f', {how}' if how else ''}{f' ({unit})' if unit else ''}"


def cited(citation: str) -> str:
    """A citation with a link, where it names an arXiv number."""
    found = re.fullmatch(r"(.*), arXiv:(\d{4}\.\d{4,5})", citation)
    return f"[{found[1]}](https://arxiv.org/abs/{found[2]})" if found else citation
