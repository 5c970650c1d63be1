"""The floor under this project's step, its evaluation, and what a step takes in each precision; nothing else runs beside."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import spread
from benchmarks.steps import Setup, start, together, work_of
from pipeline.workers.local import worker_count

ACTIONS = ("products", "optimizer", "train")
PRECISIONS = ("float32", "bfloat16")


def measure_floor(folder: Path, batch_size: int, normalization: str, repeats: int) -> dict[str, Any]:
    """Measure a step's matrix products, its optimizer pass and the step, in turn; and an evaluation with every worker busy."""
    work = work_of(folder, batch_size, normalization)
    milliseconds = 1e3 * batch_size / work.images_per_block
    with ExitStack() as stack:
        workers = start(Setup("project", worker_count(), 1), work, stack)
        for action in (*ACTIONS, "evaluate"):
            together(workers, action, 0)  # to warm up
        rounds = [{action: together(workers[:1], action, block)[0]["seconds"] for action in ACTIONS} for block in range(repeats)]
        evaluations = [together(workers, "evaluate", block)[0]["seconds"] for block in range(repeats)]
    return {
        "batch_size": batch_size,
        "normalization": normalization,
        "products_ms": spread([one["products"] * milliseconds for one in rounds]),
        "optimizer_ms": spread([one["optimizer"] * milliseconds for one in rounds]),
        "step_ms": spread([one["train"] * milliseconds for one in rounds]),
        "over_floor": spread([one["train"] / (one["products"] + one["optimizer"]) for one in rounds]),
        "evaluation_s": spread(evaluations),
    }


def measure_precision_steps(folder: Path, batch_size: int, normalization: str, repeats: int) -> list[dict[str, Any]]:
    """Measure a step in each precision, in turn."""
    work = work_of(folder, batch_size, normalization)
    with ExitStack() as stack:
        crews = {name: start(Setup("project", 1, 1), replace(work, precision=name), stack) for name in PRECISIONS}
        rounds = [{name: together(crew, "train", block)[0]["seconds"] for name, crew in crews.items()} for block in range(repeats + 1)]
    milliseconds = 1e3 * batch_size / work.images_per_block
    return [
        {"precision": name, "normalization": normalization, "step_ms": spread([one[name] * milliseconds for one in rounds[1:]])}
        for name in PRECISIONS
    ]
