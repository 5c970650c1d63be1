"""The style that every figure shares, and drawing as SVG that is the same to the byte every time."""

import io
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rcParams, style
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

# Okabe & Ito's palette (jfly.uni-koeln.de/color), which readers with any colour vision can tell apart.
ARM_COLOURS = ("#0072B2", "#D55E00", "#56B4E9", "#000000")
LEVEL_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#595959"

STYLE = Path(__file__).with_name("figures.mplstyle")
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def draw(build: Callable[..., Figure], *arguments: Any) -> str:  # noqa: ANN401 - whatever the builder takes
    """Call `build` under the common style and return its figure as SVG."""
    with style.context(["default", STYLE]):
        svg = io.StringIO()
        build(*arguments).savefig(svg, format="svg", metadata=NO_METADATA)
    return svg.getvalue()


def colour_of(item: object, among: Sequence[object], palette: Sequence[str]) -> str:
    """Return a colour by place: the same arm or level has the same colour in every figure."""
    return palette[list(among).index(item) % len(palette)]


def ink(colour: str) -> str:
    """Return a darker tone of `colour`, for text that can be read on white."""
    red, green, blue = to_rgb(colour)
    return to_hex((0.72 * red, 0.72 * green, 0.72 * blue))


def plot_seeds(axes: Axes, trials: pd.DataFrame, x: str, y: str, colour: str) -> float:
    """Draw every seed as a thin line and their mean as a thick one; return where the mean ends."""
    by_seed = trials.pivot_table(index=x, columns="seed", values=y)
    mean = by_seed.mean(axis="columns")
    marker = "o" if len(mean) == 1 else ""
    axes.plot(by_seed.index, by_seed, color=colour, linewidth=0.6, alpha=0.45)
    axes.plot(mean.index, mean, color=colour, linewidth=2, marker=marker)
    return float(mean.iloc[-1])


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each (height, text, colour) at the right edge, moved apart where labels would overlap.

    Call it when the vertical axis has its scale and its limits; on axes that share theirs, after the last curve is drawn.
    """
    axes.get_ylim()  # which settles the limits that the next line uses
    to_share = axes.transScale + axes.transLimits  # of the axes' height
    spec, figure = axes.get_subplotspec(), axes.get_figure(root=True)
    rows = spec.get_gridspec().nrows if spec else 1
    # About the share of the axes' height that a line of a label takes; titles and ticks take a quarter of a panel.
    line_height = rows * 1.4 * rcParams["font.size"] / (0.75 * 72 * figure.get_figheight()) if figure else 0.0
    ends = sorted(ends)
    wanted = [float(to_share.transform((1, height))[1]) for height, _, _ in ends]
    shares = _move_apart(wanted, [line_height * (1 + text.count("\n")) for _, text, _ in ends])
    for share, (_, text, colour) in zip(shares, ends, strict=True):
        height = to_share.inverted().transform((0, share))[1]
        axes.text(1.02, height, text, color=ink(colour), va="center", fontweight="bold", transform=axes.get_yaxis_transform())


def _move_apart(places: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Return centres, in rising order, of things of these sizes that overlap nowhere. Those that touch stay around their mean place."""
    groups: list[tuple[list[float], list[float]]] = []  # the places and sizes of things that touch

    def bottom(group: tuple[list[float], list[float]]) -> float:
        return sum(group[0]) / len(group[0]) - sum(group[1]) / 2

    for place, size in zip(places, sizes, strict=True):
        groups.append(([place], [size]))
        while len(groups) > 1 and bottom(groups[-2]) + sum(groups[-2][1]) > bottom(groups[-1]):
            wanted, heights = groups.pop()
            groups[-1] = (groups[-1][0] + wanted, groups[-1][1] + heights)
    return [end + size / 2 for group in groups for end, size in zip(accumulate(group[1], initial=bottom(group)), group[1], strict=False)]


def scale_by_ratios(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with few ticks, as plain numbers."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MaxNLocator(5) if high < 4 * low else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def plot_points(axes: Axes, values: pd.Series, height: float, colour: str) -> None:
    """Draw single values as small dots on one line, and their mean as a large one."""
    axes.plot(values, [height] * len(values), "o", color=colour, markersize=3.5, alpha=0.5, markeredgewidth=0)
    axes.plot(values.mean(), height, "D", color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.8)
