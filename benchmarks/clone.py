"""A throw-away clone of the project, in which whole jobs are run and timed."""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from benchmarks.protocol import ROOT
from checks.clone import Clone, clone_commit
from pipeline.workers.local import worker_count

# Every `python -m pipeline.…` that DVC starts is noted with its first and last moment.
CLOCK = """#!/bin/sh
began=$(date +%s.%N)
"{python}" "$@"
code=$?
echo "$2 $began $(date +%s.%N)" >> "{log}"
exit $code
"""


class TimedClone(Clone):
    """A clone of what is committed, in which it is noted how long each stage takes."""

    def __init__(self, root: Path) -> None:
        super().__init__(clone_commit(root).root)
        shims, self._log = root / ".dvc/tmp/clock", root / ".dvc/tmp/clock.log"
        shims.mkdir(parents=True)
        (shims / "python").write_text(CLOCK.format(python=sys.executable, log=self._log))
        (shims / "python").chmod(0o755)
        self.environment |= {"PATH": f"{shims}:{self.environment['PATH']}", "TRIAL_WORKERS": str(worker_count())}

    def copy_data(self) -> None:
        """Take over the data that the project has fetched and preprocessed."""
        for name in ("raw", "processed"):
            shutil.copytree(ROOT / "data" / name, self.root / "data" / name)
        self.succeed("dvc", "repro", "preprocess")

    def seconds(self, *command: str, **environment: str) -> float:
        """Run a command to its end and return how long it took.

        Raises:
            PipelineError: it failed; the message holds what it last said.
        """
        began = time.perf_counter()
        self.succeed(*command, **environment)
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
