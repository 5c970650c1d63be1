"""The look that every figure shares, and drawing as SVG that is the same to the byte every time."""

import io
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import pandas as pd
from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from matplotlib.typing import RcKeyType

# Okabe & Ito's palette (jfly.uni-koeln.de/color), which readers with any colour vision can tell apart.
ARM_COLOURS = ("#0072B2", "#D55E00", "#56B4E9", "#000000")
LEVEL_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#595959"

STYLE: dict[RcKeyType, Any] = {
    # DejaVu comes with matplotlib, so that the layout is the same on every machine; it is wide, so that others fit.
    "font.sans-serif": ["DejaVu Sans", "Helvetica Neue", "Arial"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#222222",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "text.color": "#222222",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "batch-norm-laboratory",
}
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def draw(build: Callable[..., Figure], *arguments: Any) -> str:  # noqa: ANN401 - whatever the builder takes
    """Call `build` under the common style and return its figure as SVG."""
    with style.context("default"), rc_context(STYLE):
        svg = io.StringIO()
        build(*arguments).savefig(svg, format="svg", metadata=NO_METADATA)
    return svg.getvalue()


def colour_of(item: object, among: Sequence[object], palette: Sequence[str]) -> str:
    """Colour by place: the same arm or level has the same colour in every figure."""
    return palette[list(among).index(item) % len(palette)]


def ink(colour: str) -> str:
    """A darker tone of `colour`, for text that can be read on white."""
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
    """Write each (height, text, colour) at the right edge, moved apart where they would overlap.

    Call it when the vertical axis has its scale and its limits, on axes that share theirs after the last curve is drawn.
    """
    axes.get_ylim()  # which settles the limits that the next line uses
    to_share = axes.transScale + axes.transLimits  # of the axes' height
    wanted = [float(to_share.transform((1, height))[1]) for height, _, _ in sorted(ends)]
    shares = _move_apart(wanted, [_line_height(axes) * (1 + text.count("\n")) for _, text, _ in sorted(ends)])
    for share, (_, text, colour) in zip(shares, sorted(ends), strict=True):
        height = to_share.inverted().transform((0, share))[1]
        axes.text(1.02, height, text, color=ink(colour), va="center", fontweight="bold", transform=axes.get_yaxis_transform())


def _move_apart(places: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Centres of things of these sizes, in rising order, that overlap nowhere; those that would stay around their mean place."""
    groups: list[tuple[list[float], list[float]]] = []  # the places and sizes of things that touch
    for place, size in zip(places, sizes, strict=True):
        groups.append(([place], [size]))
        while len(groups) > 1 and _top(*groups[-2]) > _bottom(*groups[-1]):
            wanted, heights = groups.pop()
            groups[-1] = (groups[-1][0] + wanted, groups[-1][1] + heights)
    return [centre for wanted, heights in groups for centre in _stack(wanted, heights)]


def _bottom(places: Sequence[float], sizes: Sequence[float]) -> float:
    return sum(places) / len(places) - sum(sizes) / 2


def _top(places: Sequence[float], sizes: Sequence[float]) -> float:
    return _bottom(places, sizes) + sum(sizes)


def _stack(places: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Centres of things that stand on each other, in the middle of where they should be."""
    ends = list(accumulate(sizes, initial=_bottom(places, sizes)))
    return [end + size / 2 for end, size in zip(ends, sizes, strict=False)]


def _line_height(axes: Axes) -> float:
    """About the share of the axes' height that a line of a label takes; titles and ticks take a quarter of a panel."""
    spec, figure = axes.get_subplotspec(), axes.get_figure(root=True)
    rows = spec.get_gridspec().nrows if spec else 1
    return rows * 1.4 * STYLE["font.size"] / (0.75 * 72 * figure.get_figheight()) if figure else 0.0


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
