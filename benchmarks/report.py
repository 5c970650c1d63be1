"""Write benchmarks/README.md and its figure from benchmarks/results.json. The same results give the same bytes."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import UndefinedError
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.measure import Json
from benchmarks.steps import PEERS, REFERENCE_BATCH_SIZE
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.pages.generated import FIGURES, update_files, update_page
from pipeline.pages.plotting import ARM_COLOURS, LEVEL_COLOURS, draw, label_ends
from pipeline.pages.rendering import make_environment

FOLDER = Path("benchmarks")
SPEED_PAGE = Path("docs/speed.md")
RESULTS = FOLDER / "results.json"
TEMPLATES = Path(__file__).parent / "templates"
COMMAND = "python -m benchmarks.report"
MEASURE = "make bench"
SECTIONS = ("machine", "steps", "floor", "whole_jobs", "growth", "precision", "precision_steps", "instruction_sets")
REFERENCE_NORMALIZATION = "batch"
LABELS = {"none": "no BN", "batch": "BN"}
# A contender has the same colour and marker, whichever others were measured.
CONTENDERS = {
    "project": ("this project", ARM_COLOURS[0], "o"),
    "notebook": ("notebook", ARM_COLOURS[3], "s"),
    "pytorch_eager": ("PyTorch eager", LEVEL_COLOURS[2], "^"),
    "pytorch_compile": ("PyTorch compile", ARM_COLOURS[1], "v"),
    "jax_scan": ("JAX scan", LEVEL_COLOURS[0], "D"),
}


def main() -> None:
    """Write the report, or with --check only compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if pages and figure are not what results.json gives")
    write_report(check=parser.parse_args().check)


def write_report(*, check: bool = False) -> None:
    """Write benchmarks/README.md, its figure and the summary in docs/speed.md from results.json; with `check`, only compare.

    Raises:
        PipelineError: results.json cannot be read, or with `check`, something is not what it gives.
    """
    results = read_results(RESULTS)
    update_files(make_report(results), FOLDER, COMMAND, check=check)
    update_page("speed", COMMAND, render("headline.md.jinja", results), check=check, page=SPEED_PAGE)


def read_results(path: Path, command: str = MEASURE) -> Json:
    """Read what was measured by a command.

    Raises:
        PipelineError: The file is missing, or is not a JSON object.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: not found; run `{command}` first") from None
    except ValueError:
        raise PipelineError(f"{path}: not valid JSON; run `{command}` again") from None
    if not isinstance(results, dict):
        raise PipelineError(f"{path}: should be a JSON object; run `{command}` again")
    return results


def make_report(results: Json) -> dict[str, str]:
    """Return every file of the report: its text, by its path below benchmarks.

    Raises:
        PipelineError: The results do not have the layout that the benchmarks write.
    """
    try:
        page = {"README.md": render("README.md.jinja", results)}
        return page | ({f"{FIGURES}/images_per_s.svg": draw(images_per_s, results["steps"])} if results.get("steps") else {})
    except (AttributeError, KeyError, TypeError, UndefinedError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise PipelineError(f"{RESULTS}: not as the benchmarks write it ({fault}); run `{MEASURE}` again") from error


def images_per_s(steps: Sequence[Json]) -> Figure:
    """Draw images/s of the whole machine by batch size, without and with BN, each contender at its best set-up."""
    figure = Figure(figsize=(8.2, 3.6))
    panels = figure.subplots(1, 2, sharey=True)
    all_sizes, all_speeds = sorted({step["batch_size"] for step in steps}), [step["images_per_s"]["median"] for step in steps]
    for axes, (normalization, label) in zip(panels, LABELS.items(), strict=True):
        measured, ends = [step for step in steps if step["normalization"] == normalization], []
        for contender in dict.fromkeys(step["contender"] for step in measured):
            name, colour, marker = CONTENDERS[contender]
            sizes = sorted({step["batch_size"] for step in measured if step["contender"] == contender})
            speeds = [step["images_per_s"] for size in sizes if (step := best(measured, contender, size, normalization))]
            axes.vlines(sizes, [speed["min"] for speed in speeds], [speed["max"] for speed in speeds], color=colour, linewidth=1)
            axes.plot(sizes, [speed["median"] for speed in speeds], color=colour, marker=marker, markersize=4, linewidth=1.6)
            ends.append((speeds[-1]["median"], name, colour))
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


def best(steps: Sequence[Json], contender: str, batch_size: int, normalization: str) -> Json | None:
    """Return the set-up of a contender with the most images/s, or None if it was not measured."""
    wanted = (contender, batch_size, normalization)
    found = [step for step in steps if (step["contender"], step["batch_size"], step["normalization"]) == wanted]
    return max(found, key=lambda step: step["images_per_s"]["median"], default=None)


def render(template: str, results: Json) -> str:
    """Fill a template. What was not measured is None there, and a name that nothing defines is an error."""
    counts = sorted(set(_counts(results)))
    words = {
        "best": best,
        "by_growth": by_growth(results.get("growth") or []),
        "labels": LABELS,
        "names": {contender: name for contender, (name, _, _) in CONTENDERS.items()},
        "reference_size": REFERENCE_BATCH_SIZE,
        "rounds": " to ".join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]]))) or "0",
    }
    environment = make_environment(TEMPLATES, filters=[plain, cell])
    return environment.get_template(template).render({**dict.fromkeys(SECTIONS), **results, **words})


def _counts(node: object) -> Iterator[int]:
    """Yield the numbers of rounds that the medians are over."""
    if isinstance(node, dict) and {"median", "n"} <= node.keys():
        yield node["n"]
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _counts(child)


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


def plain(value: float | None, like: float | None = None) -> str:
    """Write a number with three or four digits: as many decimals as suit its size, or that of `like`. None is a dash."""
    if value is None:
        return "–"
    size = abs(float(value if like is None else like))  # float, because its error names what a template lacks
    return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def cell(measured: Json | float | None) -> str:
    """Write the median (min–max) of a spread, or a single number."""
    if not isinstance(measured, dict):
        return plain(measured)
    median, low, high = (plain(measured[name], like=measured["median"]) for name in ("median", "min", "max"))
    return f"{median} ({low}–{high})"


def ratios(results: Json) -> dict[str, float]:
    """Return the ratios that the goals bound, and some others, as far as their parts were measured on this or another machine."""
    found: dict[str, float] = {}
    reference = {"batch_size": REFERENCE_BATCH_SIZE, "normalization": REFERENCE_NORMALIZATION}
    if "steps" in results and "floor" in results:
        rows = [row for row in results["steps"] if reference.items() <= row.items() and row["same_work"]]
        speed = {(row["contender"], row["processes"]): row["images_per_s"]["median"] for row in rows}
        fastest = {name: max(value for (contender, _), value in speed.items() if contender == name) for name, _ in speed}
        above = {row["normalization"]: row["over_floor"]["median"] for row in results["floor"] if row["batch_size"] == REFERENCE_BATCH_SIZE}
        found = {
            "notebook_images_per_s": fastest["project"] / fastest["notebook"],
            "two_workers_over_one": speed["project", 2] / speed["project", 1],
            "step_over_floor": above[REFERENCE_NORMALIZATION],
            "step_over_floor_without_batch_norm": above["none"],
        }
        if peers := [fastest[name] for name in PEERS if name in fastest]:
            found["best_peer_images_per_s"] = fastest["project"] / max(peers)
    jobs = results.get("whole_jobs", {})
    if "notebook" in jobs and "dvc_repro_of_the_same_five" in jobs:
        found["notebook_whole_job"] = jobs["notebook"]["scaled_s"] / jobs["dvc_repro_of_the_same_five"]["seconds"]
    if "full_repro" in jobs:
        full, parts = jobs["full_repro"], jobs["full_repro"]["parts"]
        found["not_training_share"] = 1 - parts["training"] / full["seconds"]
        found["neither_training_nor_evaluation_share"] = 1 - (parts["training"] + parts["evaluation each epoch"]) / full["seconds"]
        found["noop_repro_s"] = jobs["noop_repro_s"]["median"]
        found["worker_peak_gb"] = full["worker_peak_gb"]
    return found


if __name__ == "__main__":
    run(main)
