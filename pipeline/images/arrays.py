"""The processed arrays, as every stage after `preprocess` reads them."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import PipelineError

PROCESSED = Path("data/processed")
FILES = ("images.npy", "labels.npy", "classes.json")


@dataclass(frozen=True)
class Examples:
    """Uint8 images `(n, height, width, channels)`, their uint8 labels `(n,)`, and the names of the classes by label."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    classes: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image."""
        return self.images.shape[1:]

    def first(self, count: int) -> Self:
        """Return the first `count` examples."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])


def save_examples(examples: Examples, folder: Path) -> None:
    """Write the files that `load_examples` reads into an existing folder."""
    images, labels, classes = (folder / name for name in FILES)
    np.save(images, np.ascontiguousarray(examples.images))
    np.save(labels, examples.labels)
    classes.write_text(json.dumps(examples.classes, indent=2) + "\n", encoding="utf-8")


def load_examples(split: str, processed: Path = PROCESSED) -> Examples:
    """Open `train`, `validation` or `test`. Images are memory-mapped, so that processes share them.

    Raises:
        PipelineError: The split was not preprocessed, or its files are not what `preprocess` writes.
    """
    images, labels, classes = (processed / split / name for name in FILES)
    try:
        return Examples(
            np.load(images, mmap_mode="r", allow_pickle=False),
            np.load(labels, allow_pickle=False),
            tuple(json.loads(classes.read_text(encoding="utf-8"))),
        )
    except FileNotFoundError as error:
        raise PipelineError(f"{error.filename}: not found; run `dvc repro preprocess` first") from None
    except (ValueError, TypeError) as error:
        raise PipelineError(f"{processed / split}: not readable ({error}); run `dvc repro --force preprocess`") from None


def data_md5(processed: Path = PROCESSED) -> str:
    """Return the MD5 of all that a trial reads: images, labels and classes of the training and validation examples."""
    digest = hashlib.md5(usedforsecurity=False)
    for split in ("train", "validation"):
        for name in FILES:
            path = processed / split / name
            if not path.exists():
                raise PipelineError(f"{path}: not found; run `dvc repro preprocess` first")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "md5").digest())
    return digest.hexdigest()
