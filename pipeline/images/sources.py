"""The sources of params.yaml, tried in order until one gives exactly the published files."""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO
from urllib.request import url2pathname

from pipeline.common.addresses import public
from pipeline.common.errors import PipelineError
from pipeline.common.files import naming_what_is_full, replacing
from pipeline.images.archive import canonical_files, read_folder, read_tar
from pipeline.images.dataset import Members
from pipeline.images.datasets import DATASETS
from pipeline.images.download import download
from pipeline.images.parameters import DataParameters, Source

NPM = "npm:"
NPM_START_SECONDS = 10


def fetch(data: DataParameters, folder: Path) -> None:
    """Make `folder` hold the files of `data.md5` and nothing else, whichever source they come from.

    If it does already, no source is asked.

    Raises:
        PipelineError: No source gave them; the message says why for each.
        OSError: A file cannot be written, for example because the disk is full. No other source would help.
    """
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    if {path.name for path in there} == data.md5.keys() and all(_md5(path.read_bytes()) == data.md5[path.name] for path in there):
        print(f"{folder}: the files are there, as published")
        return
    dataset, maximum_bytes = DATASETS[data.dataset], data.maximum_megabytes * 10**6
    folder.parent.mkdir(parents=True, exist_ok=True)
    reasons: list[str] = []
    for source in data.sources:
        if reasons:
            print(f"{reasons[-1]}; trying the next source", file=sys.stderr)
        try:
            members, archive = _read(source, data, maximum_bytes, folder.parent)
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


def _read(source: Source, data: DataParameters, maximum_bytes: int, workspace: Path) -> tuple[Members, str]:
    """Return what is of the data set in a source, and what the source is."""
    dataset, url = DATASETS[data.dataset], source.url

    def read_archive(file: BinaryIO) -> tuple[Members, str]:
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # typeshed's BinaryIO lacks readinto
        if source.sha256 is not None:
            _check("sha256 of the archive", sha256, source.sha256)
        return read_tar(file, dataset, maximum_bytes), f"archive sha256 {sha256}"

    if url.startswith(("http://", "https://", NPM)):
        # The file has no name, so that nothing is left behind, even by a kill.
        with naming_what_is_full(workspace), tempfile.TemporaryFile(dir=workspace) as file:
            if url.startswith(NPM):
                url = _find_npm_archive(url.removeprefix(NPM), data.attempts, data.timeout_seconds)
            download(url, file, attempts=data.attempts, timeout_seconds=data.timeout_seconds, maximum_bytes=maximum_bytes)
            return read_archive(file)
    path = Path(url2pathname(url.removeprefix("file://")) if url.startswith("file://") else url)
    if path.is_dir():
        if source.sha256 is not None:
            raise PipelineError("a folder has no sha256; leave it out")
        return read_folder(path, dataset, maximum_bytes), "a folder"
    if not path.is_file():
        raise PipelineError("no such file or folder (a source is http(s)://…, npm:<package>@<version>, file://… or a path)")
    try:
        with path.open("rb") as file:
            return read_archive(file)
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror}") from None


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


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _check(what: str, got: str, expected: str) -> None:
    if got != expected:
        raise PipelineError(f"{what} is {got}, not {expected} as params.yaml says")
