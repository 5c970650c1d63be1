"""Files and folders that appear whole or not at all, their hashes, and the project's folder."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_SPACE = os.strerror(errno.ENOSPC)
# How the system and HDF5 put it, and NumPy for a large and for a small array.
FULL = (NO_SPACE, "Not enough free space to write", " requested and ")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write to, and rename it to `path` when the block ends well.

    The block may make a file or a folder of it. After an exception neither the temporary nor a
    half-written `path` is left, and what stood at `path` before still stands there. What a killed process left is cleared.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    remove(temporary)
    try:
        with naming_what_is_full(path):
            yield temporary
        if temporary.is_dir():
            remove(path)
        temporary.replace(path)
    finally:
        remove(temporary)


@contextmanager
def naming_what_is_full(written: Path | str) -> Iterator[None]:
    """Let an error of a full disk, raised in the block, name what was `written`: a write knows no name, and libraries no error number."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not any(words in str(error) for words in FULL):
            raise
        raise OSError(errno.ENOSPC, NO_SPACE, str(written)) from error


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def project_root() -> Path:
    """The folder of the project: DVC_ROOT, or the working directory of a command that DVC did not start.

    `dvc exp run --temp` and the workers of `dvc queue` run in copies below `.dvc/tmp/exps`, which are removed afterwards;
    DVC_ROOT is then the project that they were copied from, so that its store and its locks are used.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
