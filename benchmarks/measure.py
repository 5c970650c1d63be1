"""What every benchmark shares: medians with their spread, the machine and its environment, files of results."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from pipeline.common.files import replacing
from pipeline.training.environment import computing_environment
from pipeline.workers.local import worker_count

ROOT = Path(__file__).resolve().parent.parent
MATRIX = 2048
COPY_BYTES = 256 * 2**20
REPEATS = 7

Json = dict[str, Any]
Spread = dict[str, float]


def spread(values: Sequence[float]) -> Spread:
    """Return median, least and greatest of the values, and their number."""
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def time_action(action: Callable[[], object]) -> float:
    """Run an action and return its wall-clock seconds."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measure_machine() -> dict[str, dict[str, Spread]]:
    """Measure float32 matrix products of NumPy (OpenBLAS) and memory copies, on one core and on all, in 1e9 operations or bytes/s.

    They give a scale, not a ceiling: TensorFlow's oneDNN multiplies faster.
    """
    left, right = np.random.default_rng(0).random((2, MATRIX, MATRIX), dtype=np.float32)
    results: dict[str, dict[str, Spread]] = {"gemm_gflops": {}, "memory_copy_gb_per_s": {}}
    for threads in sorted({1, worker_count()}):
        with threadpool_limits(threads):
            seconds = [time_action(lambda: left @ right) for _ in range(REPEATS + 1)][1:]
        results["gemm_gflops"][str(threads)] = spread([2 * MATRIX**3 / second / 1e9 for second in seconds])
        sources, targets = (np.ones((threads, COPY_BYTES // threads), np.uint8) for _ in range(2))
        with ThreadPoolExecutor(threads) as pool:
            seconds = [time_action(lambda: list(pool.map(np.copyto, targets, sources))) for _ in range(REPEATS + 1)][1:]  # noqa: B023 - called here
        results["memory_copy_gb_per_s"][str(threads)] = spread([COPY_BYTES / second / 1e9 for second in seconds])
    return results


def describe_environment() -> Json:
    """Return processor, versions, cores and memory (GB) of this machine."""
    memory = round(psutil.virtual_memory().total / 1e9, 1)
    return {**computing_environment(), "mlflow": version("mlflow"), "cores": worker_count(), "memory_gb": memory}


def commit() -> str:
    """Return the commit that measures, with `-dirty` if files that are in git differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def write_results(path: Path, results: Json) -> None:
    """Write results as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
