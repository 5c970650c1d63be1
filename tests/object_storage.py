"""An S3-compatible object storage on loopback, over a folder."""

import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "colleague", secrets.token_hex(20)
STARTED = re.compile(r"Starting s3 server on \[(https?://[\d.]+:\d+)/\]")
SECONDS_TO_START = 30


@dataclass
class ObjectStorage:
    """A server over `folder`, in which each folder is a bucket; it takes one pair of keys."""

    folder: Path
    address: str
    process: subprocess.Popen[bytes]

    @property
    def credentials(self) -> dict[str, str]:
        """What a client finds set; nothing that the user has for another storage reaches it, nor does a proxy stand between."""
        empty = self.folder.with_name(f"{self.folder.name}.no-configuration")
        empty.touch()
        nothing = {name: str(empty) for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        # Over TLS, clients would send a checksum of a newer kind after the body, and this server does not take it.
        checksums = {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}
        here = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1"}
        return {**nothing, **keys, **checksums, **here}

    def objects(self, bucket: str) -> dict[str, Path]:
        """What a bucket holds, by key, without what was half uploaded."""
        files = (path for path in (self.folder / bucket).rglob("*") if path.is_file() and not path.name.startswith("."))
        return {path.relative_to(self.folder / bucket).as_posix(): path for path in files}

    def kill(self) -> None:
        """End as a machine does that loses power."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def object_storage(folder: Path, *options: str, bucket: str = "cache", port: int = 0) -> Iterator[ObjectStorage]:
    """Serve the folder for the block, with a bucket in it, on a port from the OS unless one is given."""
    (folder / bucket).mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    command = ["rclone", "serve", "s3", "--config", "/dev/null", "--addr", f"127.0.0.1:{port}", *options, str(folder)]
    environment = {**os.environ, "RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{SECRET_KEY}"'}  # arguments would be seen by every user
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield ObjectStorage(folder, _address(process, log), process)
    finally:
        process.kill()
        process.wait()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1, which is its own authority, and its key."""
    files = folder / "certificate.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run(
        [*made, "-addext", "subjectAltName=IP:127.0.0.1", "-out", str(files[0]), "-keyout", str(files[1])], check=True, capture_output=True
    )
    return files


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        if started := STARTED.search(log.read_text()):
            return started[1]
        time.sleep(0.05)
    raise AssertionError(f"the object storage did not start:\n{log.read_text()}")
