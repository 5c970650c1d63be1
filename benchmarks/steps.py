"""Training steps of all contenders, interleaved round by round, with the floor under this project's."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks.measure import spread
from benchmarks.protocol import ROOT, Process
from benchmarks.work import CLASSES, Work
from pipeline.runner import worker_count

BATCH_SIZES = (8, 32, 64, 128, 512)
NORMALIZATIONS = ("none", "batch")
PROJECT_PYTHON = ROOT / ".venv/bin/python"
PEERS_PYTHON = ROOT / ".venv-bench/bin/python"
PEERS = ("pytorch_eager", "pytorch_compile", "jax_scan")
SAME_WORK_TOLERANCE = 0.01  # of the mean loss over a block: float rounding after hundreds of steps, and no more
MAXIMUM_IMAGES = 10_240
MAXIMUM_STEPS = 640
WARM_UP_BLOCKS = 2
FLOOR_ACTIONS = ("products", "optimizer", "train")
FLOOR_REPEATS = 3  # in each round, one after the other: a neighbour's load falls on all three alike


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
    import pipeline.quiet_tensorflow  # noqa: F401  # first
    from benchmarks.contenders.project import config_of
    from pipeline.model import build_model

    model = build_model(config_of(Work("", 64, "none", 0, 1)), 0)
    return {str(index): weight.numpy() for index, weight in enumerate(model.trainable_variables[::2])}


def measure_cell(folder: Path, batch_size: int, normalization: str, contenders: Sequence[str], repeats: int) -> dict[str, Any]:
    """Measure every set-up at one batch size: rows for `steps`, and one for `floor`."""
    images = min(MAXIMUM_IMAGES, MAXIMUM_STEPS * batch_size)
    work = Work(str(folder), batch_size, normalization, images, threads=1)
    with ExitStack() as stack:
        crews = {setup: [stack.enter_context(closing(process)) for process in _start(setup, work)] for setup in setups(contenders)}
        losses = {setup: _warm_up(processes) for setup, processes in crews.items()}
        rounds = [
            {**_run_round(crews, block), "floor": _run_floor(crews, block)} for block in range(WARM_UP_BLOCKS, WARM_UP_BLOCKS + repeats)
        ]
        reference = losses[Setup("project", 1, 1)]
        rows = [_row(work, setup, crews[setup], [one[setup] for one in rounds], losses[setup], reference) for setup in crews]
    return {"steps": rows, "floor": _floor_row(work, rounds)}


def _start(setup: Setup, work: Work) -> Iterator[Process]:
    python = PEERS_PYTHON if setup.contender in PEERS else PROJECT_PYTHON
    for index in range(setup.processes):
        core = index if setup.threads == 1 else None
        yield Process(python, setup.contender, replace(work, threads=setup.threads, core=core))


def _together(processes: Sequence[Process], action: str, block: int) -> list[dict[str, Any]]:
    for process in processes:
        process.ask(action, block)
    return [process.answer() for process in processes]


def _warm_up(processes: Sequence[Process]) -> list[float]:
    return [_together(processes, "train", block)[0]["value"] for block in range(WARM_UP_BLOCKS)]


def _run_round(crews: dict[Setup, list[Process]], block: int) -> dict[Any, list[dict[str, Any]]]:
    return {setup: _together(processes, "train", block) for setup, processes in crews.items()}


def _run_floor(crews: dict[Setup, list[Process]], block: int) -> list[dict[str, Any]]:
    [alone] = crews[Setup("project", 1, 1)]
    all_busy = crews[Setup("project", worker_count(), 1)]
    floor = [_together([alone], action, block)[0] for _ in range(FLOOR_REPEATS) for action in FLOOR_ACTIONS]
    return [*floor, _together(all_busy, "evaluate", block)[0]]


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


def _floor_row(work: Work, rounds: list[dict[Any, list[dict[str, Any]]]]) -> dict[str, Any]:
    milliseconds = 1e3 / (work.images_per_block / work.batch_size)
    answers = [answer for one in rounds for answer in one["floor"][:-1]]
    products, optimizer, step = (
        [answer["seconds"] * milliseconds for answer in answers[first :: len(FLOOR_ACTIONS)]] for first in range(len(FLOOR_ACTIONS))
    )
    over = [step[index] / (products[index] + optimizer[index]) for index in range(len(step))]
    return {
        "batch_size": work.batch_size,
        "normalization": work.normalization,
        "products_ms": spread(products),
        "optimizer_ms": spread(optimizer),
        "step_ms": spread(step),
        "over_floor": spread(over),
        "evaluation_s": spread([one["floor"][-1]["seconds"] for one in rounds]),
    }
