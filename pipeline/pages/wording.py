"""Numbers in words: every sentence follows from its numbers.

A `summary` is a mapping with mean, n and, from two values on, sd; a `difference` also has low_95 and high_95. Shares are shown
in percent, and their differences in percentage points.
"""

from collections.abc import Mapping
from typing import Literal

Figures = Mapping[str, float]
Direction = Literal["higher", "lower", "unclear", "untested"]

SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"

ARM_LABELS = {"baseline": "no BN", "batch_norm": "BN"}


def arm_label(arm: str) -> str:
    """Return the short name of an arm for figures and tables."""
    return ARM_LABELS.get(arm, arm.replace("_", " "))


def direction(difference: Figures) -> Direction:
    """Say where the whole 95 % interval lies: above 0, below 0, or around it. One pair has no interval."""
    if "low_95" not in difference:
        return "untested"
    if difference["low_95"] > 0:
        return "higher"
    return "lower" if difference["high_95"] < 0 else "unclear"


def reading(difference: Figures) -> str:
    """Return the direction, for a table cell."""
    words = {"unclear": "not distinguishable (interval includes 0)", "untested": f"not testable with n{SPACE}={SPACE}1"}
    found = direction(difference)
    return words.get(found, found)


def number(summary: Figures, digits: int = 3, scale: float = 1) -> str:
    """Return a quantity as mean ± SD."""
    mean = f"{summary['mean'] * scale:.{digits}f}".replace("-", MINUS)
    return f"{mean}{SPACE}±{SPACE}{summary['sd'] * scale:.{digits}f}" if "sd" in summary else mean


def percent(summary: Figures, digits: int = 1) -> str:
    """Return a share as mean ± SD in percent."""
    return f"{number(summary, digits, 100)}{SPACE}%"


def points(difference: Figures, digits: int = 2) -> str:
    """Return a difference of shares in percentage points, with its interval."""
    return f"{_signed(difference['mean'] * 100, digits)}{SPACE}points ({_interval(difference, digits, 100)})"


def nats(difference: Figures, digits: int = 3) -> str:
    """Return a difference of losses in nats, with its interval."""
    return f"{_signed(difference['mean'], digits)}{SPACE}nats ({_interval(difference, digits, 1)})"


def number_cell(difference: Figures, digits: int = 3, scale: float = 1) -> str:
    """Return a difference of quantities with its interval, short enough for a table."""
    mean = _signed(difference["mean"] * scale, digits)
    if "low_95" not in difference:
        return mean
    return f"{mean} [{_signed(difference['low_95'] * scale, digits)}, {_signed(difference['high_95'] * scale, digits)}]"


def points_cell(difference: Figures, digits: int = 2) -> str:
    """Return a difference of shares in percentage points with its interval, short enough for a table."""
    return number_cell(difference, digits, 100)


def change(difference: Figures, what: str) -> str:
    """Return a verb phrase for what a treatment did to a share, such as "raised training accuracy by …"."""
    size, interval = f"{abs(difference['mean']) * 100:.2f}{SPACE}points", _interval(difference, 2, 100)
    phrases: dict[Direction, str] = {
        "higher": f"raised {what} by {size} ({interval})",
        "lower": f"lowered {what} by {size} ({interval})",
        "unclear": f"did not measurably change {what} ({_signed(difference['mean'] * 100, 2)}{SPACE}points, {interval})",
        "untested": f"changed {what} by {points(difference)}",
    }
    return phrases[direction(difference)]


def bearing_on_higher(difference: Figures) -> str:
    """Return a verb phrase for how a difference bears on a sentence that says "higher"."""
    phrases: dict[Direction, str] = {
        "higher": "agrees with",
        "lower": "contradicts",
        "unclear": "does not confirm",
        "untested": f"cannot test (n{SPACE}={SPACE}1)",
    }
    return phrases[direction(difference)]


def _interval(difference: Figures, digits: int, scale: float) -> str:
    if "low_95" not in difference:
        return f"n{SPACE}={SPACE}1, no interval"
    return f"95{SPACE}% interval {_signed(difference['low_95'] * scale, digits)} to {_signed(difference['high_95'] * scale, digits)}"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS)
