"""A real Ray cluster of several nodes on this machine, started as users start one."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.conftest import read_until

RAY = str(Path(sys.executable).parent / "ray")
STORE_BYTES = "200000000"
# Ray reads both when it is imported, and never again.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
os.environ.update(TOKEN)


class Node:
    """One `ray start --block`, with all that it started."""

    def __init__(self, *options: str, **environment: str) -> None:
        command = [RAY, "start", "--block", "--num-cpus=1", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", *options]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        read_until(self.process, "Ray runtime started")

    def processes(self) -> list[psutil.Process]:
        """Every process of the node."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """The processes that execute trials, or have."""
        return [process for process in self.processes() if process.is_running() and process.name().startswith("ray::")]

    def kill(self) -> None:
        """Do what a power cut does."""
        doomed = self.processes()
        for process in [psutil.Process(self.process.pid), *doomed]:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        psutil.wait_procs(doomed, timeout=30)


class RayNodes:
    """A cluster whose head has one CPU; nodes with one CPU each can be added and killed."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        head = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={folder}"]
        self.nodes = [Node(*head)]

    @property
    def variables(self) -> dict[str, str]:
        """What a driver finds set."""
        return {"RAY_ADDRESS": self.address, **TOKEN}

    def add(self, *options: str, **environment: str) -> Node:
        """Start another node."""
        node = Node(f"--address={self.address}", *options, **environment)
        self.nodes.append(node)
        return node

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.kill()


@contextmanager
def ray_nodes() -> Iterator[RayNodes]:
    """Start a head in a folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    cluster = RayNodes(folder)
    try:
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
