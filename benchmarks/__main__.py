"""Run the benchmark: `python -m benchmarks` measures everything; name parts to measure only those, or give `--quick`."""

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import psutil

from benchmarks import floor, instruction_sets, jobs, report, steps
from benchmarks.machine import measure_machine
from benchmarks.protocol import ROOT
from benchmarks.ratios import ratios
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.training.environment import computing_environment
from pipeline.workers.local import worker_count

OUTPUTS = ("README.md", "benchmarks/README.md", "benchmarks/figures", "benchmarks/results.json")
REPEATS = 5
FLOOR_REPEATS = 15
QUICK_REPEATS = 2
QUICK_FLOOR_REPEATS = 5

Results = dict[str, Any]


def main() -> None:
    """Measure what was asked for, and write results.json and README.md, or print the quick report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="only project, notebook and floor at batch 64, in two minutes; writes nothing")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        raise PipelineError(f"{', '.join(sorted(unknown))}: no such part; choose from {', '.join(PARTS)}")
    if arguments.quick:
        _print_quick_report()
        return
    if not steps.PEERS_PYTHON.exists():
        raise PipelineError(
            ".venv-bench: not found, where PyTorch and JAX stand; run `make bench`, which makes it (PARTS=... for some parts)"
        )
    for part in arguments.parts or PARTS:
        print(f"measuring {part}", flush=True)
        results, commit = report.read_results(report.RESULTS) if report.RESULTS.exists() else {}, _commit()
        PARTS[part](results)
        measured_at = {**results.get("measured_at", {}), part: commit}
        _write({**results, "environments": measured_in(results, part), "measured_at": measured_at, "ratios": ratios(results)})
    report.write_report()


def measured_in(results: Results, part: str) -> list[dict[str, Any]]:
    """Note that the part was measured here; parts measured elsewhere keep the environment that they were measured in."""
    here = _environment()
    others = [{**group, "parts": [name for name in group["parts"] if name != part]} for group in results.get("environments", [])]
    if not any(group["environment"] == here for group in others):
        others.append({"environment": here, "parts": []})
    groups = [{**group, "parts": sorted({*group["parts"], part})} if group["environment"] == here else group for group in others]
    return [group for group in groups if group["parts"]]


def _measure_machine(results: Results) -> None:
    results["machine"] = measure_machine()


def _measure_steps(results: Results) -> None:
    if shutil.which("g++") is None:
        raise PipelineError("g++: not found, and torch.compile needs it; install it and run `make bench` again")
    results["steps"] = []
    for cell in _cells(steps.BATCH_SIZES):
        results["steps"] += steps.measure_steps(*cell, ["project", "notebook", *steps.PEERS], REPEATS)


def _measure_floor(results: Results) -> None:
    results["floor"] = [floor.measure_floor(*cell, FLOOR_REPEATS) for cell in _cells(steps.BATCH_SIZES)]


def _cells(batch_sizes: tuple[int, ...]) -> Iterator[tuple[Path, int, str]]:
    """Give the folder of arrays with each batch size and normalization."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        steps.write_arrays(Path(folder))
        for batch_size, normalization in product(batch_sizes, steps.NORMALIZATIONS):
            print(f"  batch size {batch_size}, normalization {normalization}", flush=True)
            yield Path(folder), batch_size, normalization


def _measure_notebook(results: Results) -> None:
    results.setdefault("whole_jobs", {}).update(jobs.measure_notebook_against_project())


def _measure_full_run(results: Results) -> None:
    here = _environment()
    if not any(group["environment"] == here and "floor" in group["parts"] for group in results.get("environments", [])):
        raise PipelineError(
            "benchmarks/results.json: holds no floor of this machine, which says how long an evaluation takes; measure floor first"
        )
    evaluation = {
        row["normalization"]: row["evaluation_s"]["median"] for row in results["floor"] if row["batch_size"] == steps.REFERENCE_BATCH_SIZE
    }
    results.setdefault("whole_jobs", {}).update(jobs.measure_full_repro(evaluation))


def _measure_growth(results: Results) -> None:
    results["growth"] = jobs.measure_growth()


def _measure_precision(results: Results) -> None:
    results["precision_steps"] = [
        row for cell in _cells((steps.REFERENCE_BATCH_SIZE,)) for row in floor.measure_precision_steps(*cell, FLOOR_REPEATS)
    ]
    results["precision"] = jobs.measure_precision()


def _measure_instruction_sets(results: Results) -> None:
    rows = [row for cell in _cells((steps.REFERENCE_BATCH_SIZE,)) for row in instruction_sets.measure_steps(*cell, FLOOR_REPEATS)]
    results["instruction_sets"] = {"steps": rows, **instruction_sets.measure_results()}


PARTS: dict[str, Callable[[Results], None]] = {
    "machine": _measure_machine,
    "steps": _measure_steps,
    "floor": _measure_floor,
    "full_run": _measure_full_run,
    "notebook": _measure_notebook,
    "growth": _measure_growth,
    "precision": _measure_precision,
    "instruction_sets": _measure_instruction_sets,
}


def _print_quick_report() -> None:
    rows, floors = [], []
    for cell in _cells((steps.REFERENCE_BATCH_SIZE,)):
        rows += steps.measure_steps(*cell, ["project", "notebook"], QUICK_REPEATS)
        floors.append(floor.measure_floor(*cell, QUICK_FLOOR_REPEATS))
    print(report.quick_report(rows, floors, ratios({"steps": rows, "floor": floors})))


def _environment() -> dict[str, Any]:
    versions = "from importlib.metadata import version as v; print(v('torch'), v('jax'))"
    peers = subprocess.run([str(steps.PEERS_PYTHON), "-c", versions], capture_output=True, text=True, check=True).stdout.split()
    memory = round(psutil.virtual_memory().total / 1e9, 1)
    found = {"cores": worker_count(), "memory_gb": memory, "torch": peers[0], "jax": peers[1]}
    return {**computing_environment(), "dvc": version("dvc"), "mlflow": version("mlflow"), **found}


def _commit() -> str:
    """Name the commit, and say so if more than this benchmark's own outputs differs from it."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    unlike = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ".", *(f":!{output}" for output in OUTPUTS)], cwd=ROOT, check=False)
    return f"{commit}-dirty" if unlike.returncode else commit


def _write(results: Results) -> None:
    with replacing(report.RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    run(main)
