"""Run the benchmark: `python -m benchmarks` measures everything; name parts to measure only those, or give `--quick`."""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks import jobs, report, steps
from benchmarks.machine import measure_machine
from benchmarks.protocol import ROOT
from benchmarks.ratios import ratios
from pipeline.atomic import replacing
from pipeline.command import run
from pipeline.environment import computing_environment
from pipeline.errors import PipelineError
from pipeline.runner import worker_count

RESULTS = ROOT / "benchmarks/results.json"
REPEATS = 5
QUICK_REPEATS = 3

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
    for part in arguments.parts or PARTS:
        print(f"measuring {part}", flush=True)
        results = _read()
        PARTS[part](results)
        _write({**results, "environment": _environment(), "ratios": ratios(results)})
    report.main()


def _measure_machine(results: Results) -> None:
    results["machine"] = measure_machine()


def _measure_steps(results: Results) -> None:
    measured = _cells(steps.BATCH_SIZES, steps.NORMALIZATIONS, ["project", "notebook", *steps.PEERS], REPEATS)
    results["steps"], results["floor"] = measured


def _cells(
    batch_sizes: tuple[int, ...], normalizations: tuple[str, ...], contenders: list[str], repeats: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows, floors = [], []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        steps.write_arrays(Path(folder))
        for batch_size in batch_sizes:
            for normalization in normalizations:
                print(f"  batch size {batch_size}, normalization {normalization}", flush=True)
                cell = steps.measure_cell(Path(folder), batch_size, normalization, contenders, repeats)
                rows += cell["steps"]
                floors.append(cell["floor"])
    return rows, floors


def _measure_notebook(results: Results) -> None:
    # One after the other, in one run: a machine's speed drifts within the hour.
    results.setdefault("whole_jobs", {})["notebook"] = jobs.measure_notebook()
    results["whole_jobs"]["dvc_repro_of_the_same_five"] = jobs.measure_same_five()


def _measure_full_run(results: Results) -> None:
    if "floor" not in results:
        raise PipelineError("benchmarks/results.json: holds no steps yet, which say how long an evaluation takes; measure steps first")
    evaluation = {row["normalization"]: row["evaluation_s"]["median"] for row in results["floor"] if row["batch_size"] == 64}
    measured = jobs.measure_full_repro(evaluation)
    results["precision"] = measured.pop("precision")
    results.setdefault("whole_jobs", {}).update(measured)


def _measure_growth(results: Results) -> None:
    results["growth"] = jobs.measure_growth()


PARTS: dict[str, Callable[[Results], None]] = {
    "machine": _measure_machine,
    "steps": _measure_steps,
    "notebook": _measure_notebook,
    "full_run": _measure_full_run,
    "growth": _measure_growth,
}


def _print_quick_report() -> None:
    rows, floor = _cells((64,), ("none", "batch"), ["project", "notebook"], QUICK_REPEATS)
    print(report.quick_report(rows, floor, ratios({"steps": rows, "floor": floor})))


def _environment() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    peers = subprocess.run(
        [str(steps.PEERS_PYTHON), "-c", "from importlib.metadata import version as v; print(v('torch'), v('jax'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    memory = round(psutil.virtual_memory().total / 1e9, 1)
    found = {"cores": worker_count(), "memory_gb": memory, "commit": commit, "torch": peers[0], "jax": peers[1]}
    return {**computing_environment(), "dvc": version("dvc"), "mlflow": version("mlflow"), **found}


def _read() -> Results:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def _write(results: Results) -> None:
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    run(main)
