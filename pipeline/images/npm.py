"""Where the npm registry keeps a package's archive, asked of the npm client, which knows the registry to use."""

import base64
import hashlib
import shutil
import subprocess
from typing import BinaryIO

from pydantic import BaseModel, Field, ValidationError

from pipeline.common.errors import PipelineError

START_SECONDS = 10


class Package(BaseModel):
    """The address of a package's archive and its integrity: digests as `<algorithm>-<base64>`, a sha512 among them."""

    url: str = Field(alias="dist.tarball")
    integrity: str = Field(alias="dist.integrity", pattern=r"(^| )sha512-")

    def check(self, archive: BinaryIO) -> None:
        """Compare `archive` with the published sha512.

        Raises:
            PipelineError: they differ.
        """
        archive.seek(0)
        digest = hashlib.file_digest(archive, "sha512").digest()  # type: ignore[arg-type]  # typeshed's BinaryIO lacks readinto
        integrity = f"sha512-{base64.b64encode(digest).decode()}"
        if integrity not in self.integrity.split():
            raise PipelineError(f"the archive's integrity is {integrity}, not {self.integrity} as npm says")


class _Failure(BaseModel):
    class Error(BaseModel):
        summary: str

    error: Error


def find_package(name: str, *, attempts: int, timeout_seconds: float) -> Package:
    """Look up `<package>@<version>`, waiting at most `timeout_seconds` for each of `attempts` requests.

    Raises:
        PipelineError: npm is missing or fails, or the name stands for no single package with a sha512.
    """
    patience = [f"--fetch-retries={attempts - 1}", f"--fetch-timeout={timeout_seconds * 1000:.0f}"]
    patience += ["--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=4000"]
    answer = _view([*patience, "--", name, "dist.tarball", "dist.integrity"], attempts * (timeout_seconds + START_SECONDS))
    try:
        return Package.model_validate_json(answer)
    except ValidationError:
        raise PipelineError("npm gave no single address with a sha512 for it; name one exact version") from None


def _view(arguments: list[str], limit_seconds: float) -> str:
    npm = shutil.which("npm")
    if npm is None:
        raise PipelineError("npm is not installed")
    command = [npm, "view", "--json", "--logs-max=0", *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=limit_seconds, check=False)
    except subprocess.TimeoutExpired:
        raise PipelineError(f"npm did not answer within {limit_seconds:g} s") from None
    except ValueError as error:  # no program can be given a null character
        raise PipelineError(f"npm cannot be asked for that name: {error}") from None
    if answer.returncode != 0:
        raise PipelineError(f"npm failed: {_reason(answer)}")
    return answer.stdout


def _reason(answer: subprocess.CompletedProcess[str]) -> str:
    try:
        reason = _Failure.model_validate_json(answer.stdout).error.summary
    except ValidationError:
        reason = answer.stderr
    return reason.strip().rpartition("\n")[2] or f"exit code {answer.returncode}"
