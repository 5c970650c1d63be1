"""The benchmark's figures, as SVG without dates or random ids."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from pipeline.pages.plotting import ARM_COLOURS, GREY, LEVEL_COLOURS, label_ends

Json = dict[str, Any]

NONE = "–"
LABELS = {"none": "no BN", "batch": "BN"}
# A contender has the same colour and marker, whichever others were measured.
CONTENDERS = {
    "project": ("this project", ARM_COLOURS[0], "o"),
    "notebook": ("notebook", ARM_COLOURS[3], "s"),
    "pytorch_eager": ("PyTorch eager", LEVEL_COLOURS[2], "^"),
    "pytorch_compile": ("PyTorch compile", ARM_COLOURS[1], "v"),
    "jax_scan": ("JAX scan", LEVEL_COLOURS[0], "D"),
}


def plain(value: float | None, like: float | None = None) -> str:
    """Write a number with three or four digits: as many decimals as suit its size, or that of `like`."""
    if value is None:
        return NONE
    size = abs(float(value if like is None else like))  # float, because its error names what a template lacks
    return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def contender_label(name: str) -> str:
    """Return the name of a contender for figures and tables."""
    return CONTENDERS[name][0] if name in CONTENDERS else name.replace("_", " ")


def best(steps: Sequence[Json], contender: str, batch_size: int, normalization: str) -> Json | None:
    """Return the set-up of a contender with the most images/s, or None if it was not measured."""
    wanted = (contender, batch_size, normalization)
    found = [step for step in steps if (step["contender"], step["batch_size"], step["normalization"]) == wanted]
    return max(found, key=lambda step: step["images_per_s"]["median"], default=None)


def by_growth(points: Sequence[Json]) -> dict[str, list[Json]]:
    """Return the points of each quantity that grows, in order, with the seconds that one unit and one more unit take.

    More workers should divide the seconds. So a worker's cost is seconds × workers, and the seconds of one more mean nothing.
    """
    curves: dict[str, list[Json]] = {point["what"]: [] for point in points}
    for point in sorted(points, key=lambda point: point["value"]):
        value, seconds, curve, divides = point["value"], point["seconds"], curves[point["what"]], point["what"] == "workers"
        added = None if divides or not curve else (seconds - curve[-1]["seconds"]) / (value - curve[-1]["value"])
        curve.append({**point, "per_unit": seconds * value if divides else seconds / value, "per_added": added})
    return curves


def images_per_s(steps: Sequence[Json]) -> Figure:
    """Draw images/s of the whole machine by batch size, without and with BN, each contender at its best set-up."""
    figure = Figure(figsize=(8.2, 3.6))
    panels = figure.subplots(1, 2, sharey=True)
    all_sizes, all_speeds = sorted({step["batch_size"] for step in steps}), [step["images_per_s"]["median"] for step in steps]
    for axes, (normalization, label) in zip(panels, LABELS.items(), strict=True):
        measured, ends = [step for step in steps if step["normalization"] == normalization], []
        for contender in dict.fromkeys(step["contender"] for step in measured):
            _, colour, marker = CONTENDERS.get(contender, (contender, GREY, "x"))
            sizes = sorted({step["batch_size"] for step in measured if step["contender"] == contender})
            speeds = [step["images_per_s"] for size in sizes if (step := best(measured, contender, size, normalization))]
            axes.vlines(sizes, [speed["min"] for speed in speeds], [speed["max"] for speed in speeds], color=colour, linewidth=1)
            axes.plot(sizes, [speed["median"] for speed in speeds], color=colour, marker=marker, markersize=4, linewidth=1.6)
            ends.append((speeds[-1]["median"], contender_label(contender), colour))
        axes.set_xscale("log", base=2)  # both axes logarithmic: equal ratios look equal at every batch size
        axes.set_xticks(all_sizes, [str(size) for size in all_sizes])
        axes.set_yscale("log")
        axes.set_ylim(min(all_speeds) / 1.3, max(all_speeds) * 1.8)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:.0f}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
        axes.set(title=label, xlabel="batch size")
        label_ends(axes, ends)
    panels[0].set_ylabel("images/s of the whole machine")
    return figure


def parts(full_repro: Json) -> Figure:
    """Draw seconds and share of each part of a full run, the longest first."""
    whole, seconds = full_repro["seconds"], full_repro["parts"]
    names = sorted(seconds, key=seconds.__getitem__, reverse=True)
    figure = Figure(figsize=(8.2, 0.7 + 0.3 * len(names)))
    axes = figure.subplots()
    bars = axes.barh(range(len(names)), [seconds[name] for name in names], color=ARM_COLOURS[0], height=0.7)
    axes.bar_label(bars, [f"{plain(seconds[name])} s, {100 * seconds[name] / whole:.1f} %" for name in names], padding=4)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(seconds.values()))
    axes.set(xlabel="wall-clock seconds")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure


def growth(points: Sequence[Json]) -> Figure:
    """Draw seconds against each quantity that grows, and dotted what exact proportion would give.

    For workers, that is the first time divided among them, otherwise the straight line from the first point to the last.
    """
    curves = by_growth(points)
    figure = Figure(figsize=(8.2, 2.8))
    for axes, (what, curve) in zip(figure.subplots(1, len(curves), squeeze=False).flat, curves.items(), strict=True):
        values, seconds = ([point[name] for point in curve] for name in ("value", "seconds"))
        slope = (seconds[-1] - seconds[0]) / (values[-1] - values[0]) if len(values) > 1 else 0
        line = [seconds[0] + slope * (value - values[0]) for value in values]
        expected = [seconds[0] * values[0] / value for value in values] if what == "workers" else line
        axes.plot(values, expected, color=GREY, linestyle=":", linewidth=1.3)
        axes.plot(values, seconds, "o-", color=ARM_COLOURS[0], markersize=4.5, linewidth=1.6)
        axes.set_ylim(0, 1.12 * max(seconds))
        axes.set_xticks(values)
        axes.set(title=f"By {what}", xlabel=what)
    figure.axes[0].set_ylabel("wall-clock seconds")
    return figure
