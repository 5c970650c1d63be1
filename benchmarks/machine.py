"""Matrix products and memory copies per second, by NumPy, for scale; no ceiling: TensorFlow's oneDNN multiplies faster."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.measure import Spread, spread
from pipeline.workers.local import worker_count

MATRIX = 2048
COPY_BYTES = 256 * 2**20
REPEATS = 7


def measure_machine() -> dict[str, dict[str, Spread]]:
    """Measure float32 products of NumPy (OpenBLAS) and copies, on one core and on all."""
    cores = sorted({1, worker_count()})
    return {
        "gemm_gflops": {str(threads): _gemm_gflops(threads) for threads in cores},
        "memory_copy_gb_per_s": {str(threads): _copy_gb_per_s(threads) for threads in cores},
    }


def _gemm_gflops(threads: int) -> Spread:
    left, right = np.random.default_rng(0).random((2, MATRIX, MATRIX), dtype=np.float32)
    with threadpool_limits(threads):
        return _rate(lambda: left @ right, 2 * MATRIX**3)


def _copy_gb_per_s(threads: int) -> Spread:
    pairs = [(np.ones(COPY_BYTES // threads, np.uint8), np.empty(COPY_BYTES // threads, np.uint8)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return _rate(lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs)), COPY_BYTES)


def _rate(work: Callable[[], object], amount: float) -> Spread:
    work()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return spread([amount / second / 1e9 for second in seconds])
