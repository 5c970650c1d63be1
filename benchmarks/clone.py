"""A throw-away clone of the project, in which whole jobs are run and timed."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML

from benchmarks.protocol import ROOT
from pipeline.errors import PipelineError
from pipeline.runner import worker_count

# Every `python -m pipeline.…` that DVC starts is noted with its first and last moment.
CLOCK = """#!/bin/sh
began=$(date +%s.%N)
"{python}" "$@"
code=$?
echo "$2 $began $(date +%s.%N)" >> "{log}"
exit $code
"""


@dataclass
class Clone:
    """What is committed, in a folder of its own, with a store and a cache of its own."""

    root: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.root)], check=True)
        shims, self._log = self.root / ".dvc/tmp/clock", self.root / ".dvc/tmp/clock.log"
        shims.mkdir(parents=True)
        (shims / "python").write_text(CLOCK.format(python=sys.executable, log=self._log))
        (shims / "python").chmod(0o755)
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "TRIAL_"))}
        path = f"{shims}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        quiet = {"DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.environment = {**ours, **quiet, "PATH": path, "TRIAL_WORKERS": str(worker_count())}

    def copy_data(self) -> None:
        """Take over the data that the project has fetched and preprocessed."""
        for name in ("raw", "processed"):
            shutil.copytree(ROOT / "data" / name, self.root / "data" / name)
        self.seconds("dvc", "repro", "preprocess")

    def change(self, *path: str, to: object) -> None:
        """Change one value of params.yaml."""
        yaml = YAML()
        content = yaml.load(self.root / "params.yaml")
        node: Any = content
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = to
        yaml.dump(content, self.root / "params.yaml")

    def seconds(self, *command: str, **environment: str) -> float:
        """Run a command to its end and return how long it took.

        Raises:
            PipelineError: it failed; the message holds what it last said.
        """
        began = time.perf_counter()
        done = subprocess.run(command, cwd=self.root, env={**self.environment, **environment}, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PipelineError(f"{' '.join(command)} failed in the clone; the last it said was: {(done.stdout + done.stderr)[-2000:]}")
        return time.perf_counter() - began

    def stages(self) -> list[tuple[str, float, float]]:
        """Return module, first and last moment (seconds since the epoch) of every stage that ran, in order."""
        lines = [line.split() for line in self._log.read_text().splitlines()]
        return [(module.removeprefix("pipeline."), float(began), float(ended)) for module, began, ended in lines]

    def trial_runs(self) -> list[Run]:
        """Every trial's run in the clone's store."""
        client = MlflowClient(f"sqlite:///{self.root}/mlflow.db")
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(ids, "tags.kind = 'trial'", max_results=1000))

    def epoch_seconds(self, run: Run) -> list[float]:
        """How long each epoch of the run took, with its evaluation."""
        client = MlflowClient(f"sqlite:///{self.root}/mlflow.db")
        return [metric.value for metric in client.get_metric_history(run.info.run_id, "epoch_seconds")]


@contextmanager
def peak_memory_of_workers() -> Iterator[list[float]]:
    """Watch the fork servers below this process and their workers; the list's first item is the highest resident memory, in GB."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "multiprocessing.forkserver" in " ".join(process.cmdline()):
                        peak[0] = max(peak[0], process.memory_info().rss / 1e9)
                except psutil.Error:
                    continue  # it ended meanwhile

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
