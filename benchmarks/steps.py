"""Times training steps. What is compared takes turns, round by round, because a machine's speed drifts."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from itertools import product
from statistics import mean, median
from typing import Any, TextIO, TypeVar, cast

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
PRECISIONS = ("float32", "bfloat16")
SAME_WORK_TOLERANCE = 0.02  # of the mean loss over a block: float rounding grows to this in hundreds of steps; other work differs more
MAXIMUM_IMAGES = 10_240  # of a block: long enough to be timed; a round of all contenders stays within seconds
MAXIMUM_STEPS = 640
WARM_UP_BLOCKS = 2

# oneDNN reads the first variable. Its copy that multiplies for Eigen knows only the second, older name.
AVX512 = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "DNNL_MAX_CPU_ISA": "AVX512_CORE"}
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}
ONEDNN_OFF = {"TF_ENABLE_ONEDNN_OPTS": "0"}
INSTRUCTION_SETS: dict[str, dict[str, str]] = {
    "everything": {},
    "at most AVX-512": AVX512,
    "at most AVX2": AVX2,
    "oneDNN off": ONEDNN_OFF,
    "oneDNN off, at most AVX2": {**ONEDNN_OFF, **AVX2},
}

Key = TypeVar("Key")


@dataclass(frozen=True)
class Setup:
    """A contender in some number of processes, each with some number of threads."""

    contender: str
    processes: int
    threads: int


class Process:
    """A contender in a process of its own. It has trained its first step."""

    def __init__(self, contender: str, work: Work, variables: Mapping[str, str]) -> None:
        python = str(PEERS_PYTHON) if contender in PEERS else sys.executable
        command = [python, "-m", f"benchmarks.contenders.{contender}", json.dumps(asdict(work))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        began = time.perf_counter()
        self._contender = contender
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=ROOT, env=environment
        )
        self._requests, self._answers = cast(TextIO, self._process.stdin), cast(TextIO, self._process.stdout)
        self.answer()
        self.first_step_seconds = time.perf_counter() - began

    def request(self, action: str, block: int) -> None:
        """Start an action. `answer` waits for its end."""
        print(json.dumps({"action": action, "block": block}), file=self._requests, flush=True)

    def answer(self) -> Json:
        """Wait for the answer and return it.

        Raises:
            PipelineError: The process died. The message holds the end of its log.
        """
        line = self._answers.readline()
        if not line:
            self._log.seek(0)
            raise PipelineError(f"contender {self._contender} died; the end of its log: {self._log.read()[-2000:]}")
        answer: Json = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._requests.close()
        self._process.wait()
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


def start(setup: Setup, work: Work, stack: ExitStack, variables: Mapping[str, str] | None = None) -> list[Process]:
    """Start the processes of a set-up one after the other. They end with the stack."""
    cores = sorted(os.sched_getaffinity(0))
    pinned = [cores[index % len(cores)] if setup.threads == 1 else None for index in range(setup.processes)]
    described = [replace(work, threads=setup.threads, core=core) for core in pinned]
    return [stack.enter_context(closing(Process(setup.contender, one, variables or {}))) for one in described]


def run_together(processes: Sequence[Process], action: str, block: int) -> list[Json]:
    """Start an action in all processes at once and wait for all answers."""
    for process in processes:
        process.request(action, block)
    return [process.answer() for process in processes]


def measure_steps(work: Work, contenders: Sequence[str], repeats: int) -> list[Json]:
    """Measure every set-up of the contenders, and compare its losses with those of the project.

    The project runs as workers, the notebook as written, and the others both as one process and as one process per core.
    """
    cores = worker_count()
    ways = {
        "project": [Setup("project", processes, 1) for processes in sorted({1, 2, cores})],
        "notebook": [Setup("notebook", 1, cores)],
    }
    setups = [setup for name in contenders for setup in ways.get(name, [Setup(name, cores, 1), Setup(name, 1, cores)])]
    with ExitStack() as stack:
        processes = {setup: start(setup, work, stack) for setup in setups}
        rounds = _take_turns(processes, "train", WARM_UP_BLOCKS + repeats)
    losses = {setup: [one[setup][0]["value"] for one in rounds[:WARM_UP_BLOCKS]] for setup in setups}
    reference, steps, rows = losses[Setup("project", 1, 1)], work.images_per_block / work.batch_size, []
    for setup in setups:
        answers = [one[setup] for one in rounds[WARM_UP_BLOCKS:]]
        rows.append(
            {
                **asdict(setup),
                "batch_size": work.batch_size,
                "normalization": work.normalization,
                "step_ms": spread([mean(answer["seconds"] for answer in one) / steps * 1e3 for one in answers]),
                "images_per_s": spread([sum(work.images_per_block / answer["seconds"] for answer in one) for one in answers]),
                "first_step_s": median(process.first_step_seconds for process in processes[setup]),
                "peak_memory_gb": max(answer["peak_gb"] for answer in answers[-1]),
                "losses": losses[setup],
                "same_work": did_same_work(losses[setup], reference),
            }
        )
    return rows


def _take_turns(processes: Mapping[Key, Sequence[Process]], action: str, rounds: int) -> list[dict[Key, list[Json]]]:
    return [{key: run_together(group, action, block) for key, group in processes.items()} for block in range(rounds)]


def did_same_work(losses: Sequence[float], reference: Sequence[float]) -> bool:
    """Whether losses of the same blocks agree within the tolerance."""
    return bool(np.allclose(losses, reference, rtol=SAME_WORK_TOLERANCE, atol=0))


def measure_floor(work: Work, repeats: int) -> Json:
    """Measure the matrix products of a step, its optimizer pass and the step in turn, and an evaluation with every worker busy."""
    actions = ("products", "optimizer", "train")
    milliseconds = 1e3 * work.batch_size / work.images_per_block
    with ExitStack() as stack:
        workers = start(Setup("project", worker_count(), 1), work, stack)
        for action in (*actions, "evaluate"):
            run_together(workers, action, 0)  # to warm up
        rounds = [{action: run_together(workers[:1], action, block)[0]["seconds"] for action in actions} for block in range(repeats)]
        evaluations = [run_together(workers, "evaluate", block)[0]["seconds"] for block in range(repeats)]
    return {
        "batch_size": work.batch_size,
        "normalization": work.normalization,
        "products_ms": spread([one["products"] * milliseconds for one in rounds]),
        "optimizer_ms": spread([one["optimizer"] * milliseconds for one in rounds]),
        "step_ms": spread([one["train"] * milliseconds for one in rounds]),
        "over_floor": spread([one["train"] / (one["products"] + one["optimizer"]) for one in rounds]),
        "evaluation_s": spread(evaluations),
    }


def measure_precision_steps(work: Work, repeats: int) -> list[Json]:
    """Measure a step in each precision, in turn."""
    return _measure_variants("precision", {name: (replace(work, precision=name), {}) for name in PRECISIONS}, repeats)


def measure_instruction_set_steps(work: Work, repeats: int) -> list[Json]:
    """Measure a step with each set of instructions that TensorFlow may use, in turn."""
    return _measure_variants("setting", {name: (work, variables) for name, variables in INSTRUCTION_SETS.items()}, repeats)


def _measure_variants(column: str, variants: Mapping[str, tuple[Work, Mapping[str, str]]], repeats: int) -> list[Json]:
    with ExitStack() as stack:
        processes = {name: start(Setup("project", 1, 1), work, stack, variables) for name, (work, variables) in variants.items()}
        rounds = _take_turns(processes, "train", repeats + 1)[1:]
    rows = []
    for name, (work, _) in variants.items():
        milliseconds = 1e3 * work.batch_size / work.images_per_block
        times = spread([one[name][0]["seconds"] * milliseconds for one in rounds])
        rows.append({column: name, "normalization": work.normalization, "step_ms": times})
    return rows
