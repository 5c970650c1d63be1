"""Measure the ledger with very many runs: `python -m benchmarks.ledger` takes a quarter of an hour and writes benchmarks/ledger.json.

Copies of one run fill a sqlite store and the shared server (deploy/server: MLflow over PostgreSQL and S3, on this machine).
"""

import argparse
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import requests
import sqlalchemy
from sqlalchemy import Engine, case, func, insert, select, true

from benchmarks.measure import ROOT, Json, commit, describe_environment, spread, time_action, write_results
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.loopback import HOST
from pipeline.tracking import names
from pipeline.tracking import store as tracking
from pipeline.tracking.ledger import Ledger
from pipeline.tracking.provenance import stage_tags
from pipeline.tracking.store import INDEXES
from pipeline.training.result import TrialResult, save_result
from pipeline.trials.parameters import load_parameters

RESULTS = ROOT / "benchmarks/ledger.json"
RUNS = (1_000, 10_000, 100_000)
REPEATS = 5
KEYS = 100  # looked up together
TRIALS = 5  # written in each repeat
WEIGHTS_BYTES = 7_000_000
STUDY, STUDY_TRIALS, OTHER_STUDIES = "measured", 100, 20
SECONDS_TO_START, SECONDS_TO_STOP = 180, 90


def main() -> None:
    """Measure both stores and write ledger.json."""
    argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__).parse_args()
    write_results(RESULTS, measure(RUNS, REPEATS))


@dataclass(frozen=True)
class Store:
    """The store that MLflow's variables name, and its database, for what cannot be done through MLflow."""

    name: str
    database: Engine

    def execute(self, *statements: str) -> None:
        """Execute SQL statements, each in a transaction of its own."""
        with self.database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in statements:
                connection.execute(sqlalchemy.text(statement))

    def settle(self) -> None:
        """Update PostgreSQL's statistics of its tables. It does so itself within a minute of a large change."""
        if self.name == "postgresql":
            self.execute("VACUUM ANALYZE")


def measure(runs: Sequence[int], repeats: int) -> Json:
    """Measure both stores at each number of runs, ascending. Seconds and trials per second are medians with their spread.

    Raises:
        PipelineError: The shared server does not start.
    """
    results: Json = {"environment": describe_environment(), "made_by": commit(), "reads": [], "writes": []}
    for open_store, version in ((shared_store, "SHOW server_version"), (sqlite_store, "SELECT sqlite_version()")):
        with open_store() as store, tempfile.TemporaryDirectory(prefix="trial-") as folder:
            with store.database.connect() as connection:
                results["environment"][store.name] = str(connection.execute(sqlalchemy.text(version)).scalar_one())
            log_trial = _make_trial(Path(folder))
            results["reads"] += _measure_reads(store, log_trial(together=True), runs, repeats)
            for epochs in ("one by one", "together"):
                print(f"writing to {store.name}, epochs {epochs}", file=sys.stderr)
                write = partial(log_trial, together=epochs == "together")
                rate = spread([TRIALS / sum(time_action(write) for _ in range(TRIALS)) for _ in range(repeats)])
                results["writes"].append({"store": store.name, "runs": runs[-1], "epochs": epochs, "trials_per_s": rate})
            store.database.dispose()
    return results


def _make_trial(folder: Path) -> Callable[..., str]:
    """Return a function that logs a committed trial as a study's driver does, with random weights, and returns the run's id.

    It logs the epochs one by one or `together`.
    """
    ledger, config = Ledger(), load_parameters(ROOT / "params.yaml").trial_config("batch_norm", {}, seed=0)
    table = pd.read_csv(ROOT / "reports/notebook/history.csv").query("study == 'train' and arm == 'batch_norm' and seed == 0")
    history = table.drop(columns=["study", "arm", "batch_size", "seed"]).dropna(axis="columns")
    every_epoch = [({str(name): value for name, value in row.items()}, 1.0) for row in history.to_dict("records")]
    result = TrialResult(folder / "result")

    def save_weights(path: Path) -> None:
        path.write_bytes(secrets.token_bytes(WEIGHTS_BYTES))

    save_result(result, history, save_weights)
    described = {names.ARM: "batch_norm", names.STUDY: "written", names.DATA_MD5: "0" * 32, names.CODE: "0" * 64, **stage_tags()}

    def log_trial(*, together: bool) -> str:
        tags = {names.TRIAL_KEY: secrets.token_hex(32), **described}
        run_id = ledger.start("batch_norm-b64-s0", config, tags, "A trial of the benchmark.")
        for epochs in [every_epoch] if together else [[epoch] for epoch in every_epoch]:
            ledger.log_epochs(run_id, epochs)
        ledger.finish(run_id, result)
        return run_id

    return log_trial


def _measure_reads(store: Store, pattern: str, runs: Sequence[int], repeats: int) -> Iterator[Json]:
    """Fill the store with copies of a run, and measure what the ledger reads there without and with indexes."""
    ledger, numbers = Ledger(), count()
    with tempfile.TemporaryDirectory(prefix="report-") as folder:
        ledger.log_report(Path(folder), {names.VAL_ACCURACY: 0.5})

    def find(keys: int, among: int) -> None:
        # Spread over all runs, and never the same keys twice.
        wanted = {key_of(next(numbers) * 7919 % among) for _ in range(keys)}
        if missing := wanted - ledger.find(wanted).keys():
            raise AssertionError(f"{len(missing)} of {len(wanted)} trials were not found")

    for first, last in zip((0, *runs), runs, strict=False):
        copy_run(store.database, pattern, first, last)
        store.settle()
        for indexes in (False, True):
            print(f"reading from {store.name}, {last} runs, {'with' if indexes else 'without'} indexes", file=sys.stderr)
            store.execute(*(INDEXES if indexes else [f"DROP INDEX IF EXISTS {statement.split()[5]}" for statement in INDEXES]))
            actions: dict[str, Callable[[], object]] = {
                "open_s": Ledger,
                "find_1_s": partial(find, 1, last),
                f"find_{KEYS}_s": partial(find, KEYS, last),
                "newest_run_s": partial(ledger.newest_run, names.REPORT),
                "study_s": partial(ledger.finished_trials, STUDY),
            }
            # A sqlite store gets its indexes when it is opened.
            with nullcontext() if indexes else mock.patch.object(tracking, "INDEXES", ()):
                found = {name: spread([time_action(action) for _ in range(repeats + 1)][1:]) for name, action in actions.items()}
            yield {"store": store.name, "runs": last, "indexes": indexes, **found}


@contextmanager
def sqlite_store() -> Iterator[Store]:
    """Use an empty folder as the project, with its default store."""
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder, _variables(DVC_ROOT=folder):
        yield Store("sqlite", sqlalchemy.create_engine(f"sqlite:///{folder}/mlflow.db"))


@contextmanager
def shared_store() -> Iterator[Store]:
    """Start deploy/server on free ports, with empty folders, and log in as its administrator. End it afterwards.

    Raises:
        PipelineError: It does not start. The message says why.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o711)  # started by root, PostgreSQL runs as another user, who must be able to enter
        with ExitStack() as listening:
            sockets = [listening.enter_context(socket.create_server((HOST, 0))) for _ in range(3)]
            port, database_port, s3_port = (str(each.getsockname()[1]) for each in sockets)
        password, database_password = secrets.token_hex(16), secrets.token_hex(16)
        settings = {"SERVER_FOLDER": str(folder), "MLFLOW_PORT": port, "PGPORT": database_port, "S3_PORT": s3_port}
        hidden = {"MLFLOW_AUTH_ADMIN_PASSWORD": password, "PGPASSWORD": database_password}
        here = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
        said, address = folder / "said", f"http://{HOST}:{port}"
        command = ["setpriv", "--pdeathsig", "TERM", str(ROOT / "deploy/server")]  # it ends with this process, however that ends
        server = subprocess.Popen(
            command, env=here | settings | hidden, stdout=said.open("w"), stderr=subprocess.STDOUT, start_new_session=True
        )
        stack.callback(server.wait, SECONDS_TO_STOP)
        stack.callback(server.terminate)
        deadline, answers = time.monotonic() + SECONDS_TO_START, False
        while not answers:
            if server.poll() is not None or time.monotonic() > deadline:
                last_line = said.read_text().strip().split("\n")[-1]
                raise PipelineError(f"deploy/server does not start: {last_line.removeprefix('error: ')}")
            time.sleep(0.5)
            with suppress(requests.RequestException):
                answers = requests.get(f"{address}/health", timeout=5).ok
        login = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}
        stack.enter_context(_variables(DVC_ROOT=str(folder), MLFLOW_TRACKING_URI=address, **login))
        database = f"postgresql+psycopg2://mlflow:{database_password}@{HOST}:{database_port}/mlflow"
        yield Store("postgresql", sqlalchemy.create_engine(database))


@contextmanager
def _variables(**variables: str) -> Iterator[None]:
    others = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACKING_", "MLFLOW_EXPERIMENT_"))}
    with mock.patch.dict(os.environ, {**others, **variables}, clear=True):
        yield


def key_of(number: int) -> str:
    """Return the trial key of a copy."""
    return hashlib.sha256(f"trial {number}".encode()).hexdigest()


def copy_run(database: Engine, run_id: str, first: int, last: int) -> None:
    """Add copies of a run, with numbers from `first` to before `last`, each with a key, a study and a time of its own.

    The first hundred belong to the study that is measured. The rows are those that MLflow writes, without the metrics' history;
    MLflow itself would take hours.
    """
    keys = [key_of(number) for number in range(first, last)]
    table = pd.DataFrame(
        {
            "run_id": [hashlib.md5(key.encode(), usedforsecurity=False).hexdigest() for key in keys],
            "trial_key": keys,
            "study": [STUDY if number < STUDY_TRIALS else f"other_{number % OTHER_STUDIES}" for number in range(first, last)],
            "start_time": range(first * 60_000, last * 60_000, 60_000),
        }
    )
    with database.begin() as connection:
        table.to_sql("copies", connection, index=False)
        metadata = sqlalchemy.MetaData()
        metadata.reflect(connection, only=["runs", "tags", "params", "latest_metrics", "inputs", "copies"])
        copies = metadata.tables["copies"].c
        tags, inputs, run_uuid = metadata.tables["tags"].c, metadata.tables["inputs"].c, {"run_uuid": copies.run_id}
        own_tags = case((tags.key == names.TRIAL_KEY, copies.trial_key), (tags.key == names.STUDY, copies.study), else_=tags.value)
        input_id = func.substr(copies.run_id, 1, 24).concat(func.substr(inputs.input_uuid, 1, 8))
        own_columns: dict[str, dict[str, Any]] = {  # what a copy has of its own in each table
            "runs": {**run_uuid, "start_time": copies.start_time, "end_time": copies.start_time},
            "tags": {**run_uuid, "value": own_tags},
            "params": run_uuid,
            "latest_metrics": run_uuid,
            "inputs": {"destination_id": copies.run_id, "input_uuid": input_id},
        }
        for name, own in own_columns.items():
            copied = metadata.tables[name]
            columns = [own.get(column.name, column) for column in copied.c]
            owner = copied.c["destination_id" if name == "inputs" else "run_uuid"]
            rows = select(*columns).select_from(copied.join(metadata.tables["copies"], true())).where(owner == run_id)
            connection.execute(insert(copied).from_select([column.name for column in copied.c], rows.order_by(copies.start_time)))
        metadata.tables["copies"].drop(connection)


if __name__ == "__main__":
    run(main)
