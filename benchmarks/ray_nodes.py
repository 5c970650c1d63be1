"""A real Ray cluster of several nodes on this machine, started as users start one."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from pipeline.common.errors import PipelineError

RAY = str(Path(sys.executable).parent / "ray")
STORE_BYTES = "400000000"
LAST_CHARACTERS = 1000
# Ray reads both when it is imported, and never again.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
os.environ.update(TOKEN)


class Node:
    """One `ray start --block`, with all that it started."""

    def __init__(self, *options: str, cpus: int = 1, **environment: str) -> None:
        command = [RAY, "start", "--block", f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", *options]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._wait_until_started()

    def _wait_until_started(self) -> None:
        said = []
        for line in self.process.stdout or []:
            said.append(line)
            if "Ray runtime started" in line:
                return
        raise PipelineError(f"a Ray node did not start; the last it said was: {''.join(said)[-LAST_CHARACTERS:]}")

    def processes(self) -> list[psutil.Process]:
        """Every process of the node."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def trial_workers(self) -> list[psutil.Process]:
        """The processes that execute trials."""
        return [process for process in self.processes() if _title(process).startswith("ray::trial")]

    def kill(self) -> None:
        """Do what a power cut does."""
        doomed = self.processes()
        self.process.kill()
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        psutil.wait_procs(doomed, timeout=30)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class RayNodes:
    """A cluster to whose head nodes can be added, and which can be killed again."""

    def __init__(self, folder: Path, cpus: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        head = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={folder}"]
        self.nodes = [Node(*head, cpus=cpus)]

    @property
    def variables(self) -> dict[str, str]:
        """What a driver finds set."""
        return {"RAY_ADDRESS": self.address, **TOKEN}

    def add(self, *, cpus: int = 1, **environment: str) -> Node:
        """Start another node."""
        node = Node(f"--address={self.address}", cpus=cpus, **environment)
        self.nodes.append(node)
        return node

    def trial_workers(self) -> list[psutil.Process]:
        """The processes of all nodes that execute trials."""
        return [worker for node in self.nodes for worker in node.trial_workers()]

    def close(self) -> None:
        """Kill every node."""
        for node in reversed(self.nodes):
            node.kill()


@contextmanager
def ray_nodes(cpus: int = 1) -> Iterator[RayNodes]:
    """Start a head, in a folder whose path is short enough for sockets; in the end, kill every node."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    cluster = RayNodes(folder, cpus)
    try:
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
