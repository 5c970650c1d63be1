"""The shared MLflow server that deploy/server starts, on ports of its own, for tests to use, kill and start again."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import requests

from checks.clone import ROOT

SCRIPT = ROOT / "deploy/server"
OTHERS = ("MLFLOW_", "PG", "AWS_", "UVICORN_", "S3_", "SERVER_")
SECONDS_TO_START = 120
SECONDS_TO_STOP = 60


class SharedServer:
    """What deploy/server keeps running in a folder; `said` is what it prints."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.host = host
        self.folder = folder / "a server"  # a path with a space
        self.said = folder / "said"
        self.port, self.database_port, self.s3_port = free_ports(3)
        ours = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
        ports = {"MLFLOW_PORT": self.port, "PGPORT": self.database_port, "S3_PORT": self.s3_port}
        self.environment = {**ours, **{name: str(port) for name, port in ports.items()}, "SERVER_FOLDER": str(self.folder)}
        self.environment["MLFLOW_HOST"] = host
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{ours['PATH']}"
        self._scheme = "http"

    @property
    def uri(self) -> str:
        return f"{self._scheme}://{self.host}:{self.port}"

    def start(self, **environment: str) -> None:
        """Start it and wait until MLflow answers."""
        self._scheme = "https" if "UVICORN_SSL_CERTFILE" in environment else "http"
        with self.said.open("a") as said:
            variables = {**self.environment, **environment}
            # When the tests themselves are killed, no fixture ends it.
            command = ["setpriv", "--pdeathsig", "TERM", SCRIPT]
            self._process = subprocess.Popen(command, env=variables, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        wait_for("MLflow to answer", self.answers, SECONDS_TO_START)

    def answers(self) -> bool:
        assert self._process.poll() is None, self.said.read_text()
        try:
            return requests.get(f"{self.uri}/health", timeout=5, verify=False).ok
        except requests.RequestException:
            return False

    def end(self, how: signal.Signals) -> int:
        """Send a signal to the script alone, wait until all that it has started is gone, and return its exit code."""
        members = self.processes()
        self._process.send_signal(how)
        code = self._process.wait(SECONDS_TO_STOP)
        _, left = psutil.wait_procs(members, SECONDS_TO_STOP)
        assert not left
        return code

    def give_up(self) -> None:
        """Leave nothing behind, whatever state a failed test has left it in."""
        if self._process.poll() is None:
            members = self.processes()
            for member in members:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(members, SECONDS_TO_STOP)

    def processes(self) -> list[psutil.Process]:
        """The script's process and all below it."""
        script = psutil.Process(self._process.pid)
        return [script, *script.children(recursive=True)]

    def part(self, *words: str) -> psutil.Process:
        """The uppermost process whose command line has these words."""
        commands = {process: " ".join(process.cmdline()) for process in self.processes()[1:] if process.is_running()}
        found = [process for process, command in commands.items() if all(word in command for word in words)]
        assert found, f"no process of {words} among {[command[:80] for command in commands.values()]}"
        return found[0]

    def has(self, *words: str) -> bool:
        with suppress(psutil.Error, AssertionError):
            return bool(self.part(*words))
        return False

    def postgresql(self) -> psutil.Process:
        return self.part("postgres", "listen_addresses")

    def secrets(self) -> dict[str, str]:
        lines = (self.folder / "secrets.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def log(self, program: str) -> str:
        return (self.folder / f"logs/{program}.log").read_text()

    def client(self, user: str, password: str) -> dict[str, str]:
        """The variables that a user sets."""
        return {"MLFLOW_TRACKING_URI": self.uri, "MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}

    def admin(self) -> dict[str, str]:
        return self.client("admin", self.secrets()["MLFLOW_AUTH_ADMIN_PASSWORD"])

    def add_user(self, name: str) -> dict[str, str]:
        """Add a user as an administrator does, and return what the user sets."""
        password = secrets.token_hex(16)
        command = [sys.executable, ROOT / "deploy/add_user.py", name]
        variables = {**self.environment, **self.admin()}
        done = subprocess.run(command, env=variables, input=f"{password}\n", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return self.client(name, password)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for unused in sockets:
            unused.bind(("127.0.0.1", 0))
        return [unused.getsockname()[1] for unused in sockets]


def wait_for(what: str, condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.1)


@contextmanager
def folder_for_postgresql() -> Iterator[Path]:
    """A folder into which, started by root, PostgreSQL's user can look; pytest's own are private."""
    folder = Path(tempfile.mkdtemp(prefix="shared-server-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def running_server() -> Iterator[SharedServer]:
    """A shared server that has begun to answer; nothing of it is left afterwards."""
    with folder_for_postgresql() as folder:
        server = SharedServer(folder)
        try:
            server.start()
            yield server
        finally:
            server.give_up()
