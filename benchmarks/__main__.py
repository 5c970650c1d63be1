"""Run the benchmark: `python -m benchmarks` measures everything; name parts to measure only those, or give `--quick`."""

import argparse
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import version

from benchmarks import jobs, report, steps
from benchmarks.measure import Json, commit, describe_environment, measure_machine, write_results
from pipeline.common.command import run
from pipeline.common.errors import PipelineError

REPEATS, FLOOR_REPEATS = 5, 15
QUICK_REPEATS, QUICK_FLOOR_REPEATS = 2, 5


def main() -> None:
    """Measure the parts on the command line, and write results.json and the report. With --quick, print a short report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="only project, notebook and floor at batch 64, in two minutes; writes nothing")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        raise PipelineError(f"{', '.join(sorted(unknown))}: no such part; choose from {', '.join(PARTS)}")
    if arguments.quick:
        measured: Json = {"steps": [], "floor": []}
        for work in steps.works([steps.REFERENCE_BATCH_SIZE]):
            measured["steps"] += steps.measure_steps(work, steps.set_ups(["project", "notebook"]), QUICK_REPEATS)
            measured["floor"].append(steps.measure_floor(work, QUICK_FLOOR_REPEATS))
        print(report.render("quick.md.jinja", {**measured, "ratios": report.ratios(measured)}))
        return
    if not steps.PEERS_PYTHON.exists():
        raise PipelineError(
            ".venv-bench: not found; PyTorch and JAX are installed there; run `make bench`, which makes it (PARTS=... for some parts)"
        )
    measured_at = commit()  # before the results change
    for part in arguments.parts or PARTS:
        print(f"measuring {part}", flush=True)
        results = report.read_results(report.RESULTS) if report.RESULTS.exists() else {}
        results |= PARTS[part](results)
        results["environments"] = add_environment(results, part)
        results["measured_at"] = {**results.get("measured_at", {}), part: measured_at}
        write_results(report.RESULTS, {**results, "ratios": report.ratios(results)})
    report.write_report()


def _measure_steps(_: Json) -> Json:
    if shutil.which("g++") is None:
        raise PipelineError("g++: not found; torch.compile needs it; install it and run `make bench` again")
    setups = steps.set_ups(["project", "notebook", *steps.PEERS])
    return {"steps": [row for work in steps.works() for row in steps.measure_steps(work, setups, REPEATS)]}


def _measure_full_run(results: Json) -> Json:
    here = _environment()
    if not any(group["environment"] == here and "floor" in group["parts"] for group in results.get("environments", [])):
        raise PipelineError(
            "benchmarks/results.json: holds no floor of this machine, which says how long an evaluation takes; measure floor first"
        )
    reference = [row for row in results["floor"] if row["batch_size"] == steps.REFERENCE_BATCH_SIZE]
    evaluation_seconds = {row["normalization"]: row["evaluation_s"]["median"] for row in reference}
    return {"whole_jobs": {**results.get("whole_jobs", {}), **jobs.measure_full_run(evaluation_seconds)}}


def _measure_notebook(results: Json) -> Json:
    return {"whole_jobs": {**results.get("whole_jobs", {}), **jobs.measure_notebook_against_project()}}


def _measure_precision(_: Json) -> Json:
    setups = {name: steps.Setup(precision=name) for name in ("float32", "bfloat16")}
    rows = steps.measure_variants("precision", setups, steps.REFERENCE_BATCH_SIZE, FLOOR_REPEATS)
    return {"precision_steps": rows, "precision": jobs.measure_precision()}


def _measure_instruction_sets(_: Json) -> Json:
    setups = {name: steps.Setup(variables=variables) for name, variables in steps.INSTRUCTION_SETS.items()}
    rows = steps.measure_variants("setting", setups, steps.REFERENCE_BATCH_SIZE, FLOOR_REPEATS)
    return {"instruction_sets": {"steps": rows, **jobs.measure_instruction_sets()}}


PARTS: dict[str, Callable[[Json], Json]] = {  # each takes the results, and returns what it puts into them
    "machine": lambda _: {"machine": measure_machine()},
    "steps": _measure_steps,
    "floor": lambda _: {"floor": [steps.measure_floor(work, FLOOR_REPEATS) for work in steps.works()]},
    "full_run": _measure_full_run,
    "notebook": _measure_notebook,
    "growth": lambda _: {"growth": jobs.measure_growth()},
    "precision": _measure_precision,
    "instruction_sets": _measure_instruction_sets,
}


def add_environment(results: Json, part: str) -> list[Json]:
    """Return the environments with the part in this one. Parts that were measured elsewhere keep theirs."""
    here = _environment()
    others = [{**group, "parts": [name for name in group["parts"] if name != part]} for group in results.get("environments", [])]
    if not any(group["environment"] == here for group in others):
        others.append({"environment": here, "parts": []})
    groups = [{**group, "parts": sorted([*group["parts"], part])} if group["environment"] == here else group for group in others]
    return [group for group in groups if group["parts"]]


def _environment() -> Json:
    versions = "from importlib.metadata import version as v; print(v('torch'), v('jax'))"
    torch, jax = subprocess.run([steps.PEERS_PYTHON, "-c", versions], capture_output=True, text=True, check=True).stdout.split()
    return {**describe_environment(), "dvc": version("dvc"), "torch": torch, "jax": jax}


if __name__ == "__main__":
    run(main)
