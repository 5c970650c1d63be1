"""Effects as text, in the natural unit of their claim."""

import math

MINUS, SPACE = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"
UNITS = {  # scale, digits, name
    "accuracy": (100, 2, f"{SPACE}points"),
    "nats": (1, 3, f"{SPACE}nats"),
    "decades": (1, 2, f"{SPACE}decades"),
    "plain": (1, 3, ""),
}


def amount(value: float, unit: str) -> str:
    """Return an effect in its natural unit: points, nats, decades or, for the logarithm of a ratio, the ratio."""
    return number_of(value, unit) + unit_name(unit)


def threshold(value: float, unit: str) -> str:
    """Return an effect that another is compared with: as `amount`, without a plus."""
    return amount(value, unit).removeprefix("+")


def number_of(value: float, unit: str) -> str:
    """Return an effect in its natural unit, without the unit's name."""
    if unit == "log_ratio":
        ratio = math.exp(value)
        return f"×{ratio:.2f}" if 0.095 <= ratio < 100 else f"×{ratio:.2g}"
    scale, digits, _ = UNITS[unit]
    return f"{value * scale:+.{digits}f}".replace("-", MINUS)


def unit_name(unit: str) -> str:
    """Return a unit's name as it stands after a number; "" for ratios."""
    return "" if unit == "log_ratio" else UNITS[unit][2]
