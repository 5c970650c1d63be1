"""A real Ray cluster of several nodes on this machine, started in the way that users start one."""

import os
import secrets
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

    def processes(self) -> list[psutil.Process]:
        """Return all that it has started."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid).children(recursive=True)
        return []

    def kill(self) -> None:
        """Kill all of its processes at once, as a power cut does."""
        doomed = self.processes()
        self._process.kill()
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(doomed, timeout=30)


class RayNodes:
    """A head and further nodes, which can be killed one by one."""

    def __init__(self, folder: str, cpus: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.variables = {"RAY_ADDRESS": self.address, **TOKEN}  # what a driver needs
        self.nodes = [Node("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}", cpus=cpus)]

    def add(self, *, cpus: int = 1, **environment: str) -> Node:
        """Start another node."""
        self.nodes.append(Node(f"--address={self.address}", cpus=cpus, **environment))
        return self.nodes[-1]


@contextmanager
def ray_nodes(cpus: int = 1) -> Iterator[RayNodes]:
    """Start a head, in a folder whose path is short enough for sockets. Kill every node afterwards."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = RayNodes(folder, cpus)
        try:
            yield cluster
        finally:
            for node in reversed(cluster.nodes):
                node.kill()
