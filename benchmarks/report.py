"""Write benchmarks/README.md and its figures from benchmarks/results.json; the same results give the same bytes."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
from matplotlib.figure import Figure

from benchmarks.figures import LABELS, best, by_growth, contender_label, growth, images_per_s, parts, plain
from benchmarks.steps import REFERENCE_BATCH_SIZE
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.pages.generated import FIGURES, check_files, update_page, write_files
from pipeline.pages.plotting import draw
from pipeline.pages.wording import percent

Json = dict[str, Any]

FOLDER = Path("benchmarks")
RESULTS = FOLDER / "results.json"
TEMPLATES = Path(__file__).parent / "templates"
BEGIN = "<!-- speed: made by python -m benchmarks.report -->"
END = "<!-- end of speed -->"
REMEDY = "run `python -m benchmarks.report`"


class Goal(NamedTuple):
    """What a ratio should come to."""

    name: str
    at_least: bool
    bound: float
    unit: str
    meaning: str

    def is_met(self, value: float) -> bool:
        """Compare the unrounded value."""
        return value >= self.bound if self.at_least else value <= self.bound


AT_LEAST, AT_MOST = True, False
GOALS = {
    "notebook_whole_job": Goal("notebook over project", AT_LEAST, 3.5, "",
        "Seconds of the notebook's five trainings over those of a `dvc repro` of the same five."),
    "best_peer_images_per_s": Goal("project over best peer", AT_LEAST, 1.2, "",
        "Images/s of all cores at batch 64, with BN, over the best of PyTorch and JAX, as one process or one a core."),
    "step_over_floor": Goal("step over floor", AT_MOST, 1.15, "",
        "Step time at batch 64, with BN, one process, over matrix products alone plus one optimizer pass alone."),
    "not_training_share": Goal("share that is not training", AT_MOST, 0.1, "",
        "Everything but training steps in a full `dvc repro`, the evaluation after each epoch included, over the whole."),
    "noop_repro_s": Goal("no-op", AT_MOST, 4, " s", "A `dvc repro` with nothing to do."),
    "worker_peak_gb": Goal("worker's peak memory", AT_MOST, 1.2, " GB", "Highest resident memory of a worker, logging models included."),
    "two_workers_over_one": Goal("two workers over one", AT_LEAST, 1.8, "", "Speed of two workers over the speed of one."),
}  # fmt: skip


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
    files = make_report(results)
    if check:
        check_files(files, FOLDER, REMEDY)
    else:
        write_files(files, FOLDER)
    update_page(BEGIN, END, render(results, "headline.md.jinja"), check=check, remedy=REMEDY)


def read_results(path: Path) -> Json:
    """Read what the benchmarks measured.

    Raises:
        PipelineError: the file is missing, or is not a JSON object.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: not found; run `make bench` first") from None
    except ValueError:
        raise PipelineError(f"{path}: not valid JSON; run `make bench` again") from None
    if not isinstance(results, dict):
        raise PipelineError(f"{path}: should be a JSON object; run `make bench` again")
    return results


def make_report(results: Json) -> dict[str, str]:
    """Make every file of the report: its path below benchmarks, and its text.

    Raises:
        PipelineError: the results are not of the shape that the benchmarks write.
    """
    try:
        return {"README.md": render(results), **draw_figures(results)}
    except (AttributeError, KeyError, TypeError, UndefinedError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise PipelineError(f"{RESULTS}: not as the benchmarks write it ({fault}); run `make bench` again") from error


def draw_figures(results: Json) -> dict[str, str]:
    """Draw as SVG what was measured, by path below benchmarks."""
    full_run = (results.get("whole_jobs") or {}).get("full_repro")
    builders: dict[str, tuple[Callable[..., Figure], Any]] = {
        "images_per_s": (images_per_s, results.get("steps")),
        "full_run": (parts, full_run),
        "growth": (growth, results.get("growth")),
    }
    return {f"{FIGURES}/{name}.svg": draw(build, measured) for name, (build, measured) in builders.items() if measured}


def render(results: Json, template: str = "README.md.jinja") -> str:
    """Fill a template; a name that nothing defines is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown
    )  # fmt: skip
    environment.filters |= {
        "plain": plain,
        "cell": cell,
        "setup": setup,
        "contender": contender_label,
        "percent": percent,
        "points": points,
    }
    environment.globals |= {
        "best": best,
        "rounds": rounds(results),
        "goals": GOALS,
        "labels": LABELS,
        "reference_size": REFERENCE_BATCH_SIZE,
    }
    names = dict.fromkeys(("machine", "steps", "floor", "whole_jobs", "growth", "precision", "precision_steps", "instruction_sets"), None)
    return environment.get_template(template).render({**names, **results, "by_growth": by_growth(results.get("growth") or [])})


def cell(measured: Json | float | None) -> str:
    """The median (min–max) of a spread, or a single number."""
    if not isinstance(measured, dict):
        return plain(measured)
    median, low, high = (plain(measured[name], like=measured["median"]) for name in ("median", "min", "max"))
    return f"{median} ({low}–{high})"


def points(difference: float) -> str:
    """Write a difference of accuracies in percentage points."""
    return f"{100 * difference:.2f} points"


def quick_report(steps: list[Json], floor: list[Json], ratios: Json) -> str:
    """Say in Markdown what a short run found, for a terminal or a job's summary."""
    lines = [f"| batch {REFERENCE_BATCH_SIZE} | | set-up | step, ms | images/s |", "|---|---|---:|---:|---:|"]
    for step in steps:
        what = (contender_label(step["contender"]), LABELS[step["normalization"]], setup(step))
        lines.append(f"| {' | '.join(what)} | {cell(step['step_ms'])} | {cell(step['images_per_s'])} |")
    lines += [
        "",
        "| step over floor | |",
        "|---|---:|",
        *(f"| {LABELS[row['normalization']]} | {cell(row['over_floor'])} |" for row in floor),
    ]
    lines += ["", *(f"- {name.replace('_', ' ')}: {plain(value)}" for name, value in sorted(ratios.items()))]
    return "\n".join(lines)


def setup(step: Json) -> str:
    """Processes × threads of each."""
    return f"{step['processes']}×{step['threads']}"


def rounds(results: object) -> str:
    """How many rounds the medians are over, such as "5" or "3 to 9"."""
    counts = set(_counts(results))
    return " to ".join(str(count) for count in sorted({min(counts), max(counts)})) if counts else "0"


def _counts(node: object) -> Iterator[int]:
    if isinstance(node, dict) and {"median", "n"} <= node.keys():
        yield node["n"]
    elif isinstance(node, dict | list):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _counts(item)


if __name__ == "__main__":
    run(main)
