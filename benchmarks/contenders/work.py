"""The work that every contender does: the same images, in the same order, from the same initial weights.

Each contender is a process of its own. It is told its work on the command line, reads requests from standard input and answers
each with one line of JSON. This module needs only NumPy, because PyTorch and JAX have an environment of their own.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.training.seeds import data_order

HIDDEN_UNITS = (512, 256, 128)
CLASSES = 10
ADAM = (0.001, (0.9, 0.999), 1e-7)  # learning rate, betas, epsilon
BATCH_NORM = (0.99, 0.001)  # momentum of the moving averages, epsilon

Prepare = Callable[[NDArray[np.int64]], Any]
Action = Callable[[Any], float]
Contender = tuple[Prepare, Mapping[str, Action]]  # what prepares a block's order (not timed), and the actions on it (timed)


@dataclass(frozen=True)
class Work:
    """One size of work. `folder` holds the arrays that all sizes share."""

    folder: str
    batch_size: int
    normalization: str
    images_per_block: int
    threads: int = 1
    core: int | None = None  # a contender without a setting for its threads is pinned to this core
    precision: str = "float32"

    @property
    def images(self) -> NDArray[np.uint8]:
        """Return training images, uint8 `(n, 32, 32, 3)`, mapped from disk."""
        return np.load(Path(self.folder) / "images.npy", mmap_mode="r")  # type: ignore[no-any-return]

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Return the classes of the images, uint8 `(n,)`."""
        return np.load(Path(self.folder) / "labels.npy")  # type: ignore[no-any-return]

    @property
    def kernels(self) -> list[NDArray[np.float32]]:
        """Return initial Dense kernels, float32 `(inputs, units)`, first layer first. All biases start at 0."""
        with np.load(Path(self.folder) / "kernels.npz") as arrays:
            return [arrays[str(index)] for index in range(len(HIDDEN_UNITS) + 1)]

    def order(self, block: int) -> NDArray[np.int64]:
        """Return the indices of the examples of a block in training order, int64 `(images_per_block,)`."""
        return data_order(0, block, len(self.labels))[: self.images_per_block]


def serve(build: Callable[[Work], Contender]) -> None:
    """Build the contender, train one step, and then answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    work = Work(**json.loads(sys.argv[1]))
    prepare, actions = build(work)
    actions["train"](prepare(work.order(0)[: work.batch_size]))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        prepared = prepare(work.order(request["block"]))
        began = time.perf_counter()
        value = actions[request["action"]](prepared)
        seconds = time.perf_counter() - began
        # Not from getrusage: a new process starts with the peak of the process that started it.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        peak_gb = int(status.partition("VmHWM:")[2].split()[0]) / 1e6
        print(json.dumps({"seconds": seconds, "value": value, "peak_gb": peak_gb}), file=answers, flush=True)
