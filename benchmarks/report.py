"""Write benchmarks/README.md and its figures from benchmarks/results.json. The same results give the same bytes."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError
from matplotlib.figure import Figure

from benchmarks.figures import LABELS, best, by_growth, contender_label, growth, images_per_s, parts, plain
from benchmarks.measure import Json
from benchmarks.steps import PEERS, REFERENCE_BATCH_SIZE
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.pages.generated import FIGURES, update_files, update_page
from pipeline.pages.plotting import draw
from pipeline.pages.rendering import make_environment

FOLDER = Path("benchmarks")
RESULTS = FOLDER / "results.json"
TEMPLATES = Path(__file__).parent / "templates"
COMMAND = "python -m benchmarks.report"
MEASURE = "make bench"
SECTIONS = ("machine", "steps", "floor", "whole_jobs", "growth", "precision", "precision_steps", "instruction_sets")
REFERENCE_NORMALIZATION = "batch"


def main() -> None:
    """Write the report, or with --check only compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if page, figures and README are not what results.json gives"
    )
    write_report(check=parser.parse_args().check)


def write_report(*, check: bool = False) -> None:
    """Write page, figures and the README's headline figures from results.json; with `check`, only compare.

    Raises:
        PipelineError: results.json cannot be read, or with `check`, something is not what it gives.
    """
    results = read_results(RESULTS)
    update_files(make_report(results), FOLDER, COMMAND, check=check)
    update_page("speed", COMMAND, render("headline.md.jinja", results), check=check)


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
        return {"README.md": render("README.md.jinja", results), **draw_figures(results)}
    except (AttributeError, KeyError, TypeError, UndefinedError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise PipelineError(f"{RESULTS}: not as the benchmarks write it ({fault}); run `{MEASURE}` again") from error


def draw_figures(results: Json) -> dict[str, str]:
    """Draw as SVG what was measured, by path below benchmarks."""
    full_run = (results.get("whole_jobs") or {}).get("full_repro")
    builders: dict[str, tuple[Callable[..., Figure], Any]] = {
        "images_per_s": (images_per_s, results.get("steps")),
        "full_run": (parts, full_run),
        "growth": (growth, results.get("growth")),
    }
    return {f"{FIGURES}/{name}.svg": draw(build, measured) for name, (build, measured) in builders.items() if measured}


def render(template: str, results: Json) -> str:
    """Fill a template. What was not measured is None there, and a name that nothing defines is an error."""
    counts = sorted(_counts(results))
    words = {
        "best": best,
        "by_growth": by_growth(results.get("growth") or []),
        "labels": LABELS,
        "reference_size": REFERENCE_BATCH_SIZE,
        "rounds": " to ".join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]]))) or "0",
    }
    environment = make_environment(TEMPLATES, filters=[plain, cell, setup, contender_label, accuracy_points])
    return environment.get_template(template).render({**dict.fromkeys(SECTIONS), **results, **words})


def _counts(node: object) -> set[int]:
    """Return the numbers of rounds that the medians are over."""
    if isinstance(node, dict) and {"median", "n"} <= node.keys():
        return {node["n"]}
    children: Sequence[object] = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    return {count for child in children for count in _counts(child)}


def cell(measured: Json | float | None) -> str:
    """Write the median (min–max) of a spread, or a single number."""
    if not isinstance(measured, dict):
        return plain(measured)
    median, low, high = (plain(measured[name], like=measured["median"]) for name in ("median", "min", "max"))
    return f"{median} ({low}–{high})"


def setup(step: Json) -> str:
    """Write processes × threads of each."""
    return f"{step['processes']}×{step['threads']}"


def accuracy_points(difference: float) -> str:
    """Write a difference of accuracies in percentage points."""
    return f"{100 * difference:.2f} points"


def quick_report(steps: list[Json], floor: list[Json]) -> str:
    """Write in Markdown what a short run measured."""
    return render("quick.md.jinja", {"steps": steps, "floor": floor, "ratios": ratios({"steps": steps, "floor": floor})})


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
