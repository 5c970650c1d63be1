"""A small lookalike of a data set that a network can learn.

Files are a mapping from name to content, so that a test can spoil one before it is written.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.images.cifar10 import CIFAR10
from pipeline.images.dataset import IMAGE_SHAPE, Dataset

Files = dict[str, bytes]


def make_files(images_per_file: int = 60, seed: int = 0, dataset: Dataset = CIFAR10) -> Files:
    """Make a data set's binary files: each class is a pattern of coloured blocks under noise."""
    random = np.random.default_rng(seed)
    classes = len(dataset.classes)
    patterns = random.integers(0, 256, (classes, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    files = {}
    for name in dataset.files:
        labels = random.permutation(np.arange(images_per_file) % classes).astype(np.uint8)
        noise = random.normal(0, 60, (images_per_file, *IMAGE_SHAPE))
        files[name] = dataset.encode_records((patterns[labels] + noise).clip(0, 255).astype(np.uint8), labels)
    return files


def md5_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return what `data.md5` should say of the files."""
    return {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in files.items()}


def write_folder(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write the files into a new folder."""
    path.mkdir(parents=True)
    for name, content in members.items():
        (path / name).write_bytes(content)
    return path


def parameters_data(sources: list[Any], md5: Mapping[str, str], **changes: object) -> dict[str, Any]:
    """Return the `data` section of params.yaml. A source is an address, or a mapping that has a `url`."""
    section = {
        "dataset": CIFAR10.name,
        "sources": [source if isinstance(source, Mapping) else {"url": str(source)} for source in sources],
        "md5": dict(md5),
        "attempts": 1,
        "timeout_seconds": 10.0,
        "maximum_megabytes": 10,
    }
    return {**section, **changes}
