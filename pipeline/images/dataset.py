"""What a data set is: its name, its classes, its files, and the records in them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import PipelineError
from pipeline.images.arrays import Examples

RAW = Path("data/raw")
IMAGE_SHAPE = (32, 32, 3)

Members = dict[str, bytes]  # what was read of an archive or a folder: content by name
Convert = Callable[[Members, int], Iterator[tuple[str, bytes]]]


@dataclass(frozen=True)
class Dataset:
    """Labelled images of 32 by 32 pixels in three colours, published as files of records.

    A record begins with `label_bytes` bytes. The byte at `label_byte`, counted from 0, is the label: the index of a class.
    Then come the red, green and blue planes of the image, row by row. `home` is the address of the data set's page.

    A data set may be published in another form too, as files named `other_names`. `convert` takes their content and a
    limit in bytes, and yields name and content of `files`.
    """

    name: str
    title: str
    home: str
    citation: str
    classes: tuple[str, ...]
    train_files: tuple[str, ...]
    test_file: str
    label_bytes: int = 1
    label_byte: int = 0
    other_names: frozenset[str] = frozenset()
    convert: Convert | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all its files."""
        return (*self.train_files, self.test_file)

    @property
    def names(self) -> frozenset[str]:
        """The names of the files in every published form."""
        return self.other_names.union(self.files)

    @property
    def record_bytes(self) -> int:
        """The size of a record."""
        return self.label_bytes + 32 * 32 * 3

    def encode_records(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
        """Return uint8 images `(n, 32, 32, 3)` and labels `(n,)` as records. Bytes in front that are not the label are 0."""
        records = np.zeros((len(images), self.record_bytes), dtype=np.uint8)
        records[:, self.label_byte] = labels
        records[:, self.label_bytes :] = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        return records.tobytes()

    def read_examples(self, names: Iterable[str], folder: Path = RAW) -> Examples:
        """Read the records of the named files in `folder`, one file after the other.

        Raises:
            PipelineError: A file is not a whole number of records, or a label stands for no class.
        """
        images, labels = [], []
        for path in (folder / name for name in names):
            content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
            if content.size == 0 or content.size % self.record_bytes:
                whole = f"a whole number of {self.record_bytes}-byte records"
                raise PipelineError(f"{path}: {content.size} bytes is not {whole}; fetch it again")
            records = content.reshape(-1, self.record_bytes)
            labels.append(records[:, self.label_byte])
            if labels[-1].max() >= len(self.classes):
                raise PipelineError(f"{path}: label {labels[-1].max()} is not in 0..{len(self.classes) - 1}; fetch it again")
            images.append(records[:, self.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        return Examples(np.concatenate(images), np.concatenate(labels), self.classes)


def check_size(size: int, maximum_bytes: int) -> None:
    """Raise a PipelineError if `size` is above the limit."""
    if size > maximum_bytes:
        raise PipelineError(f"unpacks to more than data.maximum_megabytes allows ({maximum_bytes} bytes)")
