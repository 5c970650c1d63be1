"""The processed arrays, as every stage after `preprocess` reads them."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError

PROCESSED = Path("data/processed")
TRAIN_EVAL_EXAMPLES = 10_000  # the training examples at the front, whose metrics are also taken in inference mode


@dataclass(frozen=True)
class Examples:
    """Memory-mapped uint8 images `(n, 32, 32, 3)` and their uint8 labels `(n,)`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def first(self, count: int) -> Self:
        """Give the examples at the front."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])


def load_examples(split: str, processed: Path = PROCESSED) -> Examples:
    """Open `train`, `validation` or `test`; the images stay on disk until they are used, and are shared by processes.

    Raises:
        PipelineError: the split was not preprocessed, or its files are not what preprocess writes.
    """
    try:
        images = np.load(processed / split / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(processed / split / "labels.npy", allow_pickle=False)
    except FileNotFoundError as error:
        raise PipelineError(f"{error.filename}: not found; run `dvc repro preprocess` first") from None
    except ValueError as error:
        raise PipelineError(f"{processed / split}: not readable ({error}); run `dvc repro --force preprocess`") from None
    return Examples(images, labels)


def data_md5(processed: Path = PROCESSED) -> str:
    """MD5 over everything a trial reads: training and validation images and labels."""
    digest = hashlib.md5(usedforsecurity=False)
    for split in ("train", "validation"):
        for name in ("images.npy", "labels.npy"):
            path = processed / split / name
            if not path.exists():
                raise PipelineError(f"{path}: not found; run `dvc repro preprocess` first")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "md5").digest())
    return digest.hexdigest()
