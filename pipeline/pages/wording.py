"""How measured figures are put into words: every sentence follows from its numbers.

A `summary` is a mapping with mean, n and (from two values on) sd; a `difference` also has low_95 and high_95.
Shares are shown in percent and their differences in percentage points.
"""

from collections.abc import Mapping
from typing import Literal

Figures = Mapping[str, float]
Direction = Literal["higher", "lower", "unclear", "untested"]

SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"

ARM_LABELS = {"baseline": "no BN", "batch_norm": "BN"}


def arm_label(arm: str) -> str:
    """Short name of an arm for figures and tables."""
    return ARM_LABELS.get(arm, arm.replace("_", " "))


def direction(difference: Figures) -> Direction:
    """Say where the whole 95 % interval lies: above 0, below 0, or around it; one pair has no interval."""
    if "low_95" not in difference:
        return "untested"
    if difference["low_95"] > 0:
        return "higher"
    return "lower" if difference["high_95"] < 0 else "unclear"


def reading(difference: Figures) -> str:
    """The direction, for a table cell."""
    words = {"unclear": "not distinguishable (interval includes 0)", "untested": f"not testable with n{SPACE}={SPACE}1"}
    found = direction(difference)
    return words.get(found, found)


def percent(summary: Figures, digits: int = 1) -> str:
    """A share as mean ± SD in percent."""
    return f"{_mean_sd(summary, 100, digits)}{SPACE}%"


def number(summary: Figures, digits: int = 3) -> str:
    """Any other quantity as mean ± SD."""
    return _mean_sd(summary, 1, digits)


def _mean_sd(summary: Figures, scale: float, digits: int) -> str:
    mean = f"{summary['mean'] * scale:.{digits}f}".replace("-", MINUS)
    return f"{mean}{SPACE}±{SPACE}{summary['sd'] * scale:.{digits}f}" if "sd" in summary else mean


def points(difference: Figures, digits: int = 2) -> str:
    """A difference of shares in percentage points, with its interval."""
    return f"{_signed(difference['mean'], 100, digits)}{SPACE}points ({_interval(difference, 100, digits)})"


def nats(difference: Figures, digits: int = 3) -> str:
    """A difference of losses in nats, with its interval."""
    return f"{_signed(difference['mean'], 1, digits)}{SPACE}nats ({_interval(difference, 1, digits)})"


def points_cell(difference: Figures, digits: int = 2) -> str:
    """A difference of shares in percentage points, short enough for a table."""
    return _cell(difference, 100, digits)


def number_cell(difference: Figures, digits: int = 3) -> str:
    """A difference of other quantities, short enough for a table."""
    return _cell(difference, 1, digits)


def change(difference: Figures, what: str) -> str:
    """Verb phrase for what a treatment did to a share, such as "raised training accuracy by …"."""
    size = f"{abs(difference['mean']) * 100:.2f}{SPACE}points ({_interval(difference, 100, 2)})"
    phrases: dict[Direction, str] = {
        "higher": f"raised {what} by {size}",
        "lower": f"lowered {what} by {size}",
        "unclear": f"left {what} not distinguishably changed, {points(difference)}",
        "untested": f"moved {what} by {points(difference)}",
    }
    return phrases[direction(difference)]


def bearing_on_higher(difference: Figures) -> str:
    """Verb phrase for how a difference bears on a sentence that says "higher"."""
    phrases: dict[Direction, str] = {
        "higher": "agrees with",
        "lower": "contradicts",
        "unclear": "does not bear out",
        "untested": f"cannot test (n{SPACE}={SPACE}1)",
    }
    return phrases[direction(difference)]


def _interval(difference: Figures, scale: float, digits: int) -> str:
    if "low_95" not in difference:
        return f"n{SPACE}={SPACE}1, no interval"
    low, high = (_signed(difference[bound], scale, digits) for bound in ("low_95", "high_95"))
    return f"95{SPACE}% interval {low} to {high}"


def _cell(difference: Figures, scale: float, digits: int) -> str:
    mean = _signed(difference["mean"], scale, digits)
    if "low_95" not in difference:
        return mean
    low, high = (_signed(difference[bound], scale, digits) for bound in ("low_95", "high_95"))
    return f"{mean} [{low}, {high}]"


def _signed(value: float, scale: float, digits: int) -> str:
    return f"{value * scale:+.{digits}f}".replace("-", MINUS)
