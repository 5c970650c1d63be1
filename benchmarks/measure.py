"""Medians with their spread."""

from collections.abc import Sequence
from statistics import median

Spread = dict[str, float]


def spread(values: Sequence[float]) -> Spread:
    """Return median, least and greatest of the values, and their number."""
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}
