"""Times training steps. What is compared takes turns, round by round, because a machine's speed drifts."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from itertools import product
from statistics import mean, median
from typing import Any, NamedTuple, cast

import numpy as np

from benchmarks.contenders.work import CLASSES, Work
from benchmarks.measure import ROOT, Json, spread
from pipeline.common.errors import PipelineError
from pipeline.workers.local import worker_count

BATCH_SIZES = (8, 32, 64, 128, 512)
REFERENCE_BATCH_SIZE = 64  # the notebook's; the ratios are stated for it
NORMALIZATIONS = ("none", "batch")
PEERS_PYTHON = ROOT / ".venv-bench/bin/python"
PEERS = ("pytorch_eager", "pytorch_compile", "jax_scan")
SAME_WORK_TOLERANCE = 0.02  # of the mean loss over a block: float rounding grows to this in hundreds of steps; other work differs more
MAXIMUM_IMAGES = 10_240  # of a block: long enough to be timed; a round of all contenders stays within seconds
MAXIMUM_STEPS = 640
WARM_UP_BLOCKS = 2

# oneDNN reads the first variable. Its copy that multiplies for Eigen knows only the second, older name.
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}
ONEDNN_OFF = {"TF_ENABLE_ONEDNN_OPTS": "0"}
INSTRUCTION_SETS: dict[str, dict[str, str]] = {
    "everything": {},
    "at most AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "DNNL_MAX_CPU_ISA": "AVX512_CORE"},
    "at most AVX2": AVX2,
    "oneDNN off": ONEDNN_OFF,
    "oneDNN off, at most AVX2": {**ONEDNN_OFF, **AVX2},
}


class Setup(NamedTuple):
    """A contender in some number of processes, each with some number of threads, and with what else it is told."""

    contender: str = "project"
    processes: int = 1
    threads: int = 1
    precision: str = "float32"
    variables: Mapping[str, str] = {}


class Process:
    """A contender in a process of its own. It has trained its first step."""

    def __init__(self, contender: str, work: Work, variables: Mapping[str, str]) -> None:
        python = str(PEERS_PYTHON) if contender in PEERS else sys.executable
        command = [python, "-m", f"benchmarks.contenders.{contender}", json.dumps(asdict(work))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        self._contender, self._log = contender, tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        began = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=ROOT, env=environment
        )
        self.answer()
        self.first_step_seconds = time.perf_counter() - began

    def request(self, action: str, block: int) -> None:
        """Start an action. `answer` waits for its end."""
        print(json.dumps({"action": action, "block": block}), file=self._process.stdin, flush=True)

    def answer(self) -> Json:
        """Wait for the answer and return it.

        Raises:
            PipelineError: The process died. The message holds the end of its log.
        """
        for line in self._process.stdout or []:
            answer: Json = json.loads(line)
            return answer
        self._log.seek(0)
        raise PipelineError(f"contender {self._contender} died; the end of its log: {self._log.read()[-2000:]}")

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._log.close()


def works(batch_sizes: Sequence[int] = BATCH_SIZES) -> Iterator[Work]:
    """Give the work of each batch size and normalization: on real images if they were fetched, otherwise on random ones."""
    import pipeline.training.quiet_tensorflow  # noqa: F401  # before TensorFlow; here, because reports need this module without it
    from benchmarks.contenders.project import config_of
    from pipeline.training.network import build_model

    processed = ROOT / "data/processed/train"
    if processed.exists():
        images, labels = np.load(processed / "images.npy"), np.load(processed / "labels.npy")
    else:
        random = np.random.default_rng(0)
        labels = (np.arange(40_000) % CLASSES).astype(np.uint8)
        patterns = random.integers(0, 128, (CLASSES, 32, 32, 3), np.uint8)
        images = patterns[labels] + random.integers(0, 128, (len(labels), 32, 32, 3), np.uint8)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        np.save(f"{folder}/images.npy", images)
        np.save(f"{folder}/labels.npy", labels)
        model = build_model(config_of(Work(folder, REFERENCE_BATCH_SIZE, "none", 0)), 0, (32, 32, 3), CLASSES)
        kernels = {str(index): kernel.numpy() for index, kernel in enumerate(model.trainable_variables[::2])}
        np.savez(f"{folder}/kernels.npz", **cast(Any, kernels))
        for batch_size, normalization in product(batch_sizes, NORMALIZATIONS):
            print(f"  batch size {batch_size}, normalization {normalization}", flush=True)
            yield Work(folder, batch_size, normalization, min(MAXIMUM_IMAGES, MAXIMUM_STEPS * batch_size))


def set_ups(contenders: Sequence[str]) -> list[Setup]:
    """Return the set-ups of contenders: the project as workers, the notebook as written, others as one process and as one per core."""
    cores = worker_count()
    ways = {"project": [(processes, 1) for processes in sorted({1, 2, cores})], "notebook": [(1, cores)]}
    return [Setup(contender, *way) for contender in contenders for way in ways.get(contender, [(cores, 1), (1, cores)])]


def start(stack: ExitStack, work: Work, setup: Setup) -> list[Process]:
    """Start the processes of a set-up one after the other. They end with the stack."""
    cores = sorted(os.sched_getaffinity(0))
    pinned = [cores[index % len(cores)] if setup.threads == 1 else None for index in range(setup.processes)]
    described = [replace(work, threads=setup.threads, core=core, precision=setup.precision) for core in pinned]
    return [stack.enter_context(closing(Process(setup.contender, one, setup.variables))) for one in described]


def run_together(processes: Sequence[Process], action: str, block: int) -> list[Json]:
    """Start an action in all processes at once and wait for all answers."""
    for process in processes:
        process.request(action, block)
    return [process.answer() for process in processes]


def measure_steps(work: Work, setups: Sequence[Setup], repeats: int) -> list[Json]:
    """Measure every set-up in turn, and compare its losses with those of the first."""
    images, rows = work.images_per_block, list[Json]()
    with ExitStack() as stack:
        started = [start(stack, work, setup) for setup in setups]
        rounds = [[run_together(processes, "train", block) for processes in started] for block in range(WARM_UP_BLOCKS + repeats)]
    for setup, processes, answers in zip(setups, started, zip(*rounds, strict=True), strict=True):
        seconds = [[answer["seconds"] for answer in one] for one in answers[WARM_UP_BLOCKS:]]
        losses = [one[0]["value"] for one in answers[:WARM_UP_BLOCKS]]
        rows.append(
            {
                "contender": setup.contender,
                "processes": setup.processes,
                "threads": setup.threads,
                "batch_size": work.batch_size,
                "normalization": work.normalization,
                "step_ms": spread([1e3 * mean(one) * work.batch_size / images for one in seconds]),
                "images_per_s": spread([sum(images / each for each in one) for one in seconds]),
                "first_step_s": median(process.first_step_seconds for process in processes),
                "peak_memory_gb": max(answer["peak_gb"] for answer in answers[-1]),
                "losses": losses,
                "same_work": did_same_work(losses, rows[0]["losses"] if rows else losses),
            }
        )
    return rows


def did_same_work(losses: Sequence[float], reference: Sequence[float]) -> bool:
    """Whether losses of the same blocks agree within the tolerance."""
    return bool(np.allclose(losses, reference, rtol=SAME_WORK_TOLERANCE, atol=0))


def measure_floor(work: Work, repeats: int) -> Json:
    """Measure the matrix products of a step, its optimizer pass and the step in turn, and an evaluation with every worker busy."""
    milliseconds = 1e3 * work.batch_size / work.images_per_block
    with ExitStack() as stack:
        workers = start(stack, work, Setup(processes=worker_count()))
        for action in ("products", "optimizer", "train", "evaluate"):
            run_together(workers, action, 0)  # to warm up
        times = [
            [run_together(workers[:1], action, block)[0]["seconds"] * milliseconds for action in ("products", "optimizer", "train")]
            for block in range(repeats)
        ]
        evaluations = [run_together(workers, "evaluate", block)[0]["seconds"] for block in range(repeats)]
    products, optimizer, step = zip(*times, strict=True)
    return {
        "batch_size": work.batch_size,
        "normalization": work.normalization,
        "products_ms": spread(products),
        "optimizer_ms": spread(optimizer),
        "step_ms": spread(step),
        "over_floor": spread([train / (product + update) for product, update, train in times]),
        "evaluation_s": spread(evaluations),
    }


def measure_variants(column: str, variants: Mapping[str, Setup], batch_size: int, repeats: int) -> list[Json]:
    """Measure a step of each set-up without and with Batch Normalization. `column` says what the names are."""
    return [
        {column: name, "normalization": work.normalization, "step_ms": row["step_ms"]}
        for work in works([batch_size])
        for name, row in zip(variants, measure_steps(work, list(variants.values()), repeats), strict=True)
    ]
