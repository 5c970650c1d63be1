"""A real Ray cluster of several nodes on this machine, started in the way that users start one."""

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
# Ray reads both when it is imported, and never again.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
os.environ.update(TOKEN)


class Node:
    """One `ray start --block`, with all that it started."""

    def __init__(self, *options: str, cpus: int = 1, **environment: str) -> None:
        command = [RAY, "start", "--block", f"--num-cpus={cpus}", "--object-store-memory=400000000", "--disable-usage-stats", *options]
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        said = ""
        for line in self._process.stdout or []:
            said += line
            if "Ray runtime started" in line:
                return
        raise PipelineError(f"a Ray node did not start; the end of its log: {said[-1000:]}")

    def trial_workers(self) -> list[psutil.Process]:
        """Return the processes that execute trials."""
        return [process for process in self._processes() if _title(process).startswith("ray::trial")]

    def kill(self) -> None:
        """Kill all of its processes at once, as a power cut does."""
        doomed = self._processes()
        self._process.kill()
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(doomed, timeout=30)

    def _processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid).children(recursive=True)
        return []


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


class RayNodes:
    """A head and further nodes, which can be killed one by one."""

    def __init__(self, folder: Path, cpus: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.variables = {"RAY_ADDRESS": self.address, **TOKEN}  # what a driver needs
        self.nodes = [Node("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}", cpus=cpus)]

    def add(self, *, cpus: int = 1, **environment: str) -> Node:
        """Start another node."""
        self.nodes.append(Node(f"--address={self.address}", cpus=cpus, **environment))
        return self.nodes[-1]

    def trial_workers(self) -> list[psutil.Process]:
        """Return the processes of all nodes that execute trials."""
        return [worker for node in self.nodes for worker in node.trial_workers()]


@contextmanager
def ray_nodes(cpus: int = 1) -> Iterator[RayNodes]:
    """Start a head, in a folder whose path is short enough for sockets. Kill every node afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    try:
        cluster = RayNodes(folder, cpus)
        try:
            yield cluster
        finally:
            for node in reversed(cluster.nodes):
                node.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
