"""The work that every contender does: the same images, in the same order, from the same initial weights.

Needs NumPy alone, since the peers have an environment of their own.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.training.seeds import data_order

HIDDEN_UNITS = (512, 256, 128)
CLASSES = 10
LEARNING_RATE = 0.001
ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-7
BATCH_NORM_MOMENTUM = 0.99
BATCH_NORM_EPSILON = 0.001


@dataclass(frozen=True)
class Work:
    """One size of work; `folder` holds the arrays that all sizes share."""

    folder: str
    batch_size: int
    normalization: str
    images_per_block: int
    threads: int
    core: int | None = None  # where a contender must be pinned that has no setting for its threads
    precision: str = "float32"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Write it for another process."""
        return json.dumps(asdict(self))

    @property
    def images(self) -> NDArray[np.uint8]:
        """Training images, uint8 `(n, 32, 32, 3)`, mapped from disk."""
        images: NDArray[np.uint8] = np.load(Path(self.folder) / "images.npy", mmap_mode="r")
        return images

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Their classes, uint8 `(n,)`."""
        labels: NDArray[np.uint8] = np.load(Path(self.folder) / "labels.npy")
        return labels

    @property
    def kernels(self) -> list[NDArray[np.float32]]:
        """Initial Dense kernels, float32 `(inputs, units)`, first layer first; all biases start at 0."""
        with np.load(Path(self.folder) / "kernels.npz") as arrays:
            return [arrays[str(index)] for index in range(len(HIDDEN_UNITS) + 1)]

    def order(self, block: int) -> NDArray[np.int64]:
        """Which examples the block trains on, in order, int64 `(images_per_block,)`."""
        return data_order(0, block, len(self.labels))[: self.images_per_block]
