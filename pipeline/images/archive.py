"""The published forms of a data set, read as the same binary files.

An archive is only ever read, in memory and up to a limit. Nothing of it is extracted to a path.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pipeline.common.errors import PipelineError
from pipeline.images.dataset import Dataset, Members

GZIP_MAGIC = b"\x1f\x8b"
BROKEN_TAR = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError, RecursionError)


def read_tar(file: BinaryIO, dataset: Dataset, maximum_bytes: int) -> Members:
    """Return what is of the data set in a tar archive, gzipped or not, by base name.

    Raises:
        PipelineError: It is not a whole tar archive, or holds more than `maximum_bytes`.
    """
    members: Members = {}
    size = 0
    try:
        file.seek(0)
        gzipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        content = (gzip.GzipFile(fileobj=file) if gzipped else file).read(maximum_bytes + 1)
        check_size(len(content), maximum_bytes)
        with tarfile.open(fileobj=BytesIO(content), mode="r:") as tar:
            for member in tar:
                if member.size < 0:
                    raise tarfile.ReadError("a member's size is negative")  # tarfile would read the same member for ever
                name = Path(member.name).name
                stream = tar.extractfile(member) if member.isreg() and _is_wanted(name, dataset) else None
                if stream is not None:
                    size += member.size  # a sparse member may be larger than the archive it is in
                    check_size(size, maximum_bytes)
                    members[name] = stream.read()
    except BROKEN_TAR as error:
        raise PipelineError(f"not a whole tar archive: {error}") from None
    return members


def read_folder(folder: Path, dataset: Dataset, maximum_bytes: int) -> Members:
    """Return what is of the data set right in `folder`, by name.

    Raises:
        PipelineError: A file cannot be read, or they hold more than `maximum_bytes`.
    """
    try:
        paths = [path for path in sorted(folder.iterdir()) if path.is_file() and _is_wanted(path.name, dataset)]
        check_size(sum(path.stat().st_size for path in paths), maximum_bytes)
        return {path.name: path.read_bytes() for path in paths}
    except OSError as error:
        raise PipelineError(f"{error.filename}: {error.strerror}") from None


def canonical_files(members: Members, dataset: Dataset, maximum_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Return name and content of the data set's binary files, from whichever published form is complete.

    Raises:
        PipelineError: None is, or it cannot be converted.
    """
    if members.keys() >= set(dataset.files):
        return ((name, members[name]) for name in dataset.files)
    if dataset.convert is not None and members.keys() >= dataset.other_names:
        return dataset.convert(members, maximum_bytes)
    found = ", ".join(sorted(members)) or "none of its files"
    raise PipelineError(f"holds no complete form of {dataset.title} ({dataset.files[0]} … {dataset.test_file}); found {found}")


def check_size(size: int, maximum_bytes: int) -> None:
    """Raise a PipelineError if `size` is above the limit."""
    if size > maximum_bytes:
        raise PipelineError(f"unpacks to more than data.maximum_megabytes allows ({maximum_bytes} bytes)")


def _is_wanted(name: str, dataset: Dataset) -> bool:
    return name in dataset.files or name in dataset.other_names
