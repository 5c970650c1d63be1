"""The published forms of CIFAR-10, all read as the same six binary files.

An archive is only ever read, in memory and up to a limit; nothing of it is extracted to a path.
"""

import gzip
import json
import struct
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.common.errors import PipelineError
from pipeline.images.cifar10 import CLASSES, FILES, IMAGE_SHAPE, RECORD_BYTES, TEST_FILE, TRAIN_FILES, encode_records

SHEETS = {name: name.replace(".bin", ".png") for name in FILES}
TRAIN_LABELS, TEST_LABELS = "train_lables.json", "test_lables.json"  # the npm package spells them so
SHEET_MEMBERS = {*SHEETS.values(), TRAIN_LABELS, TEST_LABELS}
SHEET_WIDTH = 1024

GZIP_MAGIC = b"\x1f\x8b"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
RGB_8_BIT = (8, 2)  # bit depth and colour type in a PNG's header

BROKEN_TAR = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError, RecursionError)
BROKEN_PNG = (OSError, SyntaxError, ValueError, IndexError, zlib.error, struct.error, Image.DecompressionBombError)


def read_tar(file: BinaryIO, maximum_bytes: int) -> dict[str, bytes]:
    """Read what CIFAR-10 needs from a tar archive, gzipped or not, by base name.

    Raises:
        PipelineError: it is not a whole tar archive, or holds more than `maximum_bytes`.
    """
    try:
        content = BytesIO(_decompressed(file, maximum_bytes))
        with tarfile.open(fileobj=content, mode="r:") as tar:
            return _tar_members(tar, maximum_bytes)
    except BROKEN_TAR as error:
        raise PipelineError(f"not a whole tar archive: {error}") from None


def _decompressed(file: BinaryIO, maximum_bytes: int) -> bytes:
    file.seek(0)
    zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.seek(0)
    content = (gzip.GzipFile(fileobj=file) if zipped else file).read(maximum_bytes + 1)
    _check_size(len(content), maximum_bytes)
    return content


def _tar_members(tar: tarfile.TarFile, maximum_bytes: int) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    size = 0
    for member in tar:
        if member.size < 0:
            raise tarfile.ReadError("a member's size is negative")  # tarfile itself would go round in circles
        name = Path(member.name).name
        stream = tar.extractfile(member) if member.isreg() and _wanted(name) else None
        if stream is not None:
            size += member.size  # a sparse member may be larger than the archive it is in
            _check_size(size, maximum_bytes)
            members[name] = stream.read()
    return members


def read_folder(folder: Path, maximum_bytes: int) -> dict[str, bytes]:
    """Read what CIFAR-10 needs from the files right in `folder`.

    Raises:
        PipelineError: a file cannot be read, or they hold more than `maximum_bytes`.
    """
    try:
        paths = [path for path in sorted(folder.iterdir()) if path.is_file() and _wanted(path.name)]
        _check_size(sum(path.stat().st_size for path in paths), maximum_bytes)
        return {path.name: path.read_bytes() for path in paths}
    except OSError as error:
        raise PipelineError(f"{error.filename}: {error.strerror}") from None


def canonical_files(members: dict[str, bytes], maximum_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Give name and content of the six files of `pipeline.images.cifar10.FILES`, from either published form.

    Raises:
        PipelineError: neither form is complete, or a PNG sheet or its labels are not as they should be.
    """
    if members.keys() >= set(FILES):
        yield from ((name, members[name]) for name in FILES)
    elif members.keys() >= SHEET_MEMBERS:
        yield from _from_sheets(members, maximum_bytes)
    else:
        found = ", ".join(sorted(members)) or "nothing of either"
        raise PipelineError(f"holds neither {FILES[0]} … {FILES[-1]} nor the same as .png with labels; found {found}")


def _from_sheets(members: dict[str, bytes], maximum_bytes: int) -> Iterator[tuple[str, bytes]]:
    counts = {name: _image_count(sheet, members[sheet]) for name, sheet in SHEETS.items()}
    _check_size(sum(counts.values()) * RECORD_BYTES, maximum_bytes)
    train_labels = _labels(members, TRAIN_LABELS, sum(counts[name] for name in TRAIN_FILES))
    labels = dict(zip(TRAIN_FILES, np.split(train_labels, np.cumsum([counts[name] for name in TRAIN_FILES])[:-1]), strict=True))
    labels[TEST_FILE] = _labels(members, TEST_LABELS, counts[TEST_FILE])
    for name, sheet in SHEETS.items():
        yield name, encode_records(_images(sheet, members[sheet], counts[name]), labels[name])


def _image_count(sheet: str, png: bytes) -> int:
    """Read a PNG's height, which is the number of images, without decoding it."""
    if len(png) < 26 or not png.startswith(PNG_MAGIC):
        raise PipelineError(f"{sheet}: not a PNG")
    width, height, *kind = struct.unpack(">IIBB", png[16:26])
    if width != SHEET_WIDTH or tuple(kind) != RGB_8_BIT:
        raise PipelineError(f"{sheet}: should be 8-bit RGB, {SHEET_WIDTH} pixels wide, one image a row")
    return int(height)


def _labels(members: dict[str, bytes], name: str, count: int) -> NDArray[np.uint8]:
    """Read a flat JSON list of classes as uint8 `(count,)`."""
    try:
        labels = json.loads(members[name])
    except (ValueError, RecursionError):
        raise PipelineError(f"{name}: not valid JSON") from None
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < len(CLASSES) for label in labels):
        raise PipelineError(f"{name}: should be a list of integers in 0..{len(CLASSES) - 1}")
    if len(labels) != count:
        raise PipelineError(f"{name}: {len(labels)} labels for {count} images")
    return np.array(labels, dtype=np.uint8)


def _images(sheet: str, png: bytes, count: int) -> NDArray[np.uint8]:
    """Decode a sheet as uint8 images `(count, 32, 32, 3)`."""
    # Whether a sheet is too large is for data.maximum_megabytes to say.
    quiet = warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
    try:
        with quiet, Image.open(BytesIO(png), formats=["PNG"]) as image:
            # Of several headers Pillow follows the last, and memory for what that says is taken only when the image is loaded.
            if image.size != (SHEET_WIDTH, count) or any(tile.args != "RGB" for tile in image.tile):
                raise PipelineError(f"{sheet}: broken PNG: a later header contradicts the first")
            return np.asarray(image).reshape(-1, *IMAGE_SHAPE)
    except BROKEN_PNG as error:
        raise PipelineError(f"{sheet}: broken PNG: {error}") from None


def _wanted(name: str) -> bool:
    return name in FILES or name in SHEET_MEMBERS


def _check_size(size: int, maximum_bytes: int) -> None:
    if size > maximum_bytes:
        raise PipelineError(f"unpacks to more than data.maximum_megabytes allows ({maximum_bytes} bytes)")
