"""Training steps of all contenders, interleaved round by round."""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks.measure import spread
from benchmarks.protocol import ROOT, Process
from benchmarks.work import CLASSES, Work
from pipeline.workers.local import worker_count

BATCH_SIZES = (8, 32, 64, 128, 512)
REFERENCE_BATCH_SIZE = 64  # the notebook's, for which the ratios are stated
NORMALIZATIONS = ("none", "batch")
PROJECT_PYTHON = Path(sys.executable)
PEERS_PYTHON = ROOT / ".venv-bench/bin/python"
PEERS = ("pytorch_eager", "pytorch_compile", "jax_scan")
SAME_WORK_TOLERANCE = 0.02  # of the mean loss over a block: what float rounding grows to in hundreds of steps; other work differs more
MAXIMUM_IMAGES = 10_240
MAXIMUM_STEPS = 640
WARM_UP_BLOCKS = 2


@dataclass(frozen=True)
class Setup:
    """A contender in some number of processes, each with some number of threads."""

    contender: str
    processes: int
    threads: int


def setups(contenders: Sequence[str]) -> list[Setup]:
    """Every contender in its set-ups: the project as workers, the notebook as written, peers both ways."""
    cores = worker_count()
    ways = {
        "project": [Setup("project", processes, 1) for processes in sorted({1, 2, cores})],
        "notebook": [Setup("notebook", 1, cores)],
    }
    return [setup for name in contenders for setup in ways.get(name, [Setup(name, cores, 1), Setup(name, 1, cores)])]


def write_arrays(folder: Path) -> None:
    """Write what every contender reads: real images if they were fetched, random ones else, and initial kernels."""
    processed = ROOT / "data/processed/train"
    if processed.exists():
        images, labels = np.load(processed / "images.npy"), np.load(processed / "labels.npy")
    else:
        random = np.random.default_rng(0)
        labels = (np.arange(40_000) % CLASSES).astype(np.uint8)
        patterns = random.integers(0, 128, (CLASSES, 32, 32, 3), np.uint8)
        images = patterns[labels] + random.integers(0, 128, (len(labels), 32, 32, 3), np.uint8)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    np.savez(folder / "kernels.npz", **_initial_kernels())


def _initial_kernels() -> dict[str, Any]:
    import pipeline.training.quiet_tensorflow  # noqa: F401  # first
    from benchmarks.contenders.project import config_of
    from pipeline.training.network import build_model

    model = build_model(config_of(Work("", REFERENCE_BATCH_SIZE, "none", 0, 1)), 0, (32, 32, 3), CLASSES)
    return {str(index): weight.numpy() for index, weight in enumerate(model.trainable_variables[::2])}


def measure_steps(folder: Path, batch_size: int, normalization: str, contenders: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """Measure every set-up at one batch size, and compare its losses with the project's."""
    work = work_of(folder, batch_size, normalization)
    with ExitStack() as stack:
        crews = {setup: start(setup, work, stack) for setup in setups(contenders)}
        losses = {setup: [together(crew, "train", block)[0]["value"] for block in range(WARM_UP_BLOCKS)] for setup, crew in crews.items()}
        blocks = range(WARM_UP_BLOCKS, WARM_UP_BLOCKS + repeats)
        rounds = [{setup: together(crew, "train", block) for setup, crew in crews.items()} for block in blocks]
        reference = losses[Setup("project", 1, 1)]
        return [_row(work, setup, crews[setup], [one[setup] for one in rounds], losses[setup], reference) for setup in crews]


def work_of(folder: Path, batch_size: int, normalization: str) -> Work:
    """Describe a block: long enough to be timed, short enough that a round of all contenders stays within seconds."""
    return Work(str(folder), batch_size, normalization, min(MAXIMUM_IMAGES, MAXIMUM_STEPS * batch_size), threads=1)


def start(setup: Setup, work: Work, stack: ExitStack) -> list[Process]:
    """Start the set-up's processes one after the other; they end with the stack."""
    python = PEERS_PYTHON if setup.contender in PEERS else PROJECT_PYTHON
    cores = sorted(os.sched_getaffinity(0))
    described = [
        replace(work, threads=setup.threads, core=cores[index % len(cores)] if setup.threads == 1 else None)
        for index in range(setup.processes)
    ]
    return [stack.enter_context(closing(Process(python, setup.contender, one))) for one in described]


def together(processes: Sequence[Process], action: str, block: int) -> list[dict[str, Any]]:
    """Let all processes begin at once, and wait for all."""
    for process in processes:
        process.ask(action, block)
    return [process.answer() for process in processes]


def _row(
    work: Work, setup: Setup, processes: list[Process], rounds: list[list[dict[str, Any]]], losses: list[float], reference: list[float]
) -> dict[str, Any]:
    steps = work.images_per_block / work.batch_size
    same = all(abs(ours - theirs) <= SAME_WORK_TOLERANCE * theirs for ours, theirs in zip(losses, reference, strict=True))
    return {
        "contender": setup.contender,
        "batch_size": work.batch_size,
        "normalization": work.normalization,
        "processes": setup.processes,
        "threads": setup.threads,
        "step_ms": spread([mean(answer["seconds"] for answer in one) / steps * 1e3 for one in rounds]),
        "images_per_s": spread([sum(work.images_per_block / answer["seconds"] for answer in one) for one in rounds]),
        "first_step_s": median(process.first_step_seconds for process in processes),
        "peak_memory_gb": max(answer["peak_gb"] for answer in rounds[-1]),
        "losses": losses,
        "same_work": same,
    }
