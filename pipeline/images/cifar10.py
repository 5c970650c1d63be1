"""CIFAR-10 as its authors publish it: the binary version, which is plain bytes and needs no unpickling.

Format: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import PipelineError

TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
FILES = (*TRAIN_FILES, TEST_FILE)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (32, 32, 3)
RECORD_BYTES = 1 + 32 * 32 * 3


def encode_records(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
    """Write uint8 images `(n, 32, 32, 3)` and labels `(n,)` as records: a label byte, then red, green, blue planes."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels[:, None], planes], axis=1).tobytes()


def read_records(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read a file of records as uint8 images `(n, 32, 32, 3)` and labels `(n,)`.

    Raises:
        PipelineError: the file is not a whole number of records, or a label is not in 0..9.
    """
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if data.size == 0 or data.size % RECORD_BYTES:
        raise PipelineError(f"{path}: {data.size} bytes is not a whole number of {RECORD_BYTES}-byte records; fetch it again")
    records = data.reshape(-1, RECORD_BYTES)
    labels = records[:, 0]
    if labels.max() >= len(CLASSES):
        raise PipelineError(f"{path}: label {labels.max()} is not in 0..{len(CLASSES) - 1}; fetch it again")
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
