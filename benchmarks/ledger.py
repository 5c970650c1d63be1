"""Measure the ledger with very many runs: `python -m benchmarks.ledger` takes a quarter of an hour and writes benchmarks/ledger.json.

Runs that do nothing fill a sqlite store and the shared server (deploy/server: MLflow over PostgreSQL and S3, on this machine).
"""

import argparse
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import psutil
import sqlalchemy

from benchmarks.ledger_stores import STUDY, Store, copy_run, key_of, shared_store, sqlite_store
from benchmarks.machine import measure_machine
from benchmarks.measure import Spread, spread
from benchmarks.protocol import ROOT
from pipeline.common.command import run
from pipeline.common.files import replacing
from pipeline.tracking import store as tracking
from pipeline.tracking.ledger import Ledger
from pipeline.tracking.provenance import stage_tags
from pipeline.training.environment import computing_environment
from pipeline.training.result import TrialResult, save_result
from pipeline.trials.parameters import load_parameters
from pipeline.workers.local import worker_count

RESULTS = ROOT / "benchmarks/ledger.json"
RUNS = (1_000, 10_000, 100_000)
QUICK_RUNS = (100, 1_000)
REPEATS = 5
KEYS = 100
TRIALS = 5  # written for each repeat
WEIGHTS_BYTES = 7_000_000
STORES = {"sqlite": sqlite_store, "postgresql": shared_store}

Row = dict[str, Any]


def main() -> None:
    """Measure both stores, and write ledger.json, or print what was measured quickly."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 1,000 runs, in two minutes; prints, and writes nothing")
    if parser.parse_args().quick:
        print(json.dumps(measure(QUICK_RUNS, repeats=2), indent=1))
        return
    results = {"machine": measure_machine(), **measure(RUNS, REPEATS)}
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def measure(runs: Sequence[int], repeats: int) -> dict[str, Any]:
    """Measure both stores at each number of runs, ascending; seconds and trials per second are medians with their spread.

    Raises:
        PipelineError: the shared server does not start.
    """
    results: dict[str, Any] = {**described(), "reads": [], "writes": []}
    for open_store in reversed(STORES.values()):  # what may be missing is told first
        with open_store() as store, tempfile.TemporaryDirectory(prefix="trial-") as folder:
            results["environment"] |= _database(store)
            trial = _Trial(Path(folder))
            results["reads"] += _measure_reads(store, trial, runs, repeats)
            results["writes"] += _measure_writes(store, trial, runs[-1], repeats)
            store.database.dispose()
    return results


class _Trial:
    """A trial that was trained once, and is logged again and again."""

    def __init__(self, folder: Path) -> None:
        self._config = load_parameters(ROOT / "params.yaml").trial_config("batch_norm", {}, seed=0)
        table = pd.read_csv(ROOT / "reports/notebook/history.csv").query("study == 'train' and arm == 'batch_norm' and seed == 0")
        history = table.drop(columns=["study", "arm", "batch_size", "seed"]).dropna(axis="columns")
        self._epochs = [{str(name): value for name, value in row.items()} for row in history.to_dict("records")]
        self._result = TrialResult(folder / "result")
        save_result(self._result, history, _write_weights)
        self._tags = {"arm": "batch_norm", "study": "written", "data_md5": "0" * 32, "code": "0" * 64, **stage_tags()}

    def log(self, ledger: Ledger, *, together: bool) -> str:
        """Log it as a study's driver does, its epochs one by one or together."""
        tags = {"trial_key": secrets.token_hex(32), **self._tags}
        run_id = ledger.start("batch_norm-b64-s0", self._config, tags, "A trial that does nothing.")
        if together:
            ledger.log_epochs(run_id, [(epoch, 1.0) for epoch in self._epochs])
        else:
            for epoch in self._epochs:
                ledger.log_epochs(run_id, [(epoch, 1.0)])
        ledger.finish(run_id, self._result)
        return run_id


def _write_weights(path: Path) -> None:
    path.write_bytes(secrets.token_bytes(WEIGHTS_BYTES))


def _measure_reads(store: Store, trial: _Trial, runs: Sequence[int], repeats: int) -> Iterator[Row]:
    ledger = Ledger()
    pattern = trial.log(ledger, together=True)
    with tempfile.TemporaryDirectory(prefix="report-") as folder:
        ledger.log_report(Path(folder), {"val_accuracy": 0.5})
    for first, last in zip((0, *runs), runs, strict=False):
        copy_run(store.database, pattern, first, last)
        store.settle()
        for indexes in (False, True):
            print(f"reading from {store.name}, {last} runs, {'with' if indexes else 'without'} indexes", file=sys.stderr)
            (store.make_indexes if indexes else store.drop_indexes)()
            # Opened, a sqlite store would get them at once.
            with nullcontext() if indexes else mock.patch.object(tracking, "INDEXES", ()):
                yield {"store": store.name, "runs": last, "indexes": indexes, **_time_reads(last, repeats)}


def _time_reads(runs: int, repeats: int) -> dict[str, Spread]:
    ledger, numbers = Ledger(), count()

    def some(keys: int) -> list[str]:
        # Spread over all runs, and never the same twice.
        return [key_of(next(numbers) * 7919 % runs) for _ in range(keys)]

    return {
        "open_s": _seconds(Ledger, repeats),
        "find_1_s": _seconds(lambda: _found(ledger, some(1)), repeats),
        f"find_{KEYS}_s": _seconds(lambda: _found(ledger, some(KEYS)), repeats),
        "newest_run_s": _seconds(lambda: ledger.newest_run("report"), repeats),
        "study_s": _seconds(lambda: ledger.finished_trials(STUDY), repeats),
    }


def _found(ledger: Ledger, keys: list[str]) -> None:
    found = ledger.find(keys)
    if found.keys() != set(keys):
        raise AssertionError(f"{len(found)} of {len(set(keys))} trials were found")


def _measure_writes(store: Store, trial: _Trial, runs: int, repeats: int) -> Iterator[Row]:
    ledger = Ledger()

    def write(*, together: bool) -> None:
        for _ in range(TRIALS):
            trial.log(ledger, together=together)

    for epochs in ("one by one", "together"):
        print(f"writing to {store.name}, epochs {epochs}", file=sys.stderr)
        seconds = [_timed(partial(write, together=epochs == "together")) for _ in range(repeats)]
        yield {"store": store.name, "runs": runs, "epochs": epochs, "trials_per_s": spread([TRIALS / each for each in seconds])}


def _seconds(action: Callable[[], object], repeats: int) -> Spread:
    action()
    return spread([_timed(action) for _ in range(repeats)])


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def described() -> dict[str, Any]:
    """Say what measured: the environment, with the machine's size, and the commit."""
    return {"environment": _environment(), "made_by": _made_by()}


def _environment() -> dict[str, Any]:
    memory = round(psutil.virtual_memory().total / 1e9, 1)
    return {**computing_environment(), "mlflow": version("mlflow"), "cores": worker_count(), "memory_gb": memory}


def _made_by() -> dict[str, str]:
    tags = stage_tags()
    return {"commit": tags.get("mlflow.source.git.commit", "")[:7], "dirty": tags.get("git.dirty", "")}


def _database(store: Store) -> dict[str, str]:
    question = "SELECT sqlite_version()" if store.name == "sqlite" else "SHOW server_version"
    with store.database.connect() as connection:
        return {store.name: str(connection.execute(sqlalchemy.text(question)).scalar_one())}


if __name__ == "__main__":
    run(main)
