"""What the ledger asks of a store with many runs and experiments: nothing twice, and nothing without an index."""

import json
import platform
import re
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from sqlalchemy import event
from sqlalchemy.engine import Engine

from benchmarks import ledger as benchmark
from benchmarks.ledger import copy_run, key_of, shared_store
from checks.clone import ROOT
from pipeline.tracking import ledger as tracking
from pipeline.tracking import store as tracking_store
from pipeline.tracking.ledger import Ledger
from pipeline.tracking.store import INDEXES

OTHER = "other"
NAMES = {re.search(r"batch_norm_\w+", statement).group() for statement in INDEXES}


@pytest.fixture(scope="module")
def new_store(tmp_path_factory) -> Path:
    """A store as MLflow makes it, which takes a second."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def store(new_store, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "mlflow.db"
    path.write_bytes(new_store.read_bytes())
    return path


def log(ledger: Ledger, key: str, experiment: str | None = None, status: str = "FINISHED", start_time: int | None = None) -> str:
    tags = {"kind": "trial", "trial_key": key, "study": "train", "arm": "batch_norm"}
    run_id = ledger.client.create_run(experiment or ledger.experiment_id, tags=tags, start_time=start_time).info.run_id
    if status != "RUNNING":
        ledger.client.set_terminated(run_id, status)
    return run_id


def find(ledger: Ledger, *keys: str) -> dict[str, str]:
    return {key: run.info.run_id for key, run in ledger.find(keys).items()}


def indexes_of(store: Path) -> set[str]:
    with closing(sqlite3.connect(store)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'batch_norm%'")}


@contextmanager
def searches():
    """Catch MLflow's searches for runs, as statement and values."""
    caught = []

    def catch(_connection, _cursor, statement, values, _context, _many) -> None:
        if "FROM runs JOIN" in statement.replace("\n", " "):
            caught.append((statement, values))

    event.listen(Engine, "before_cursor_execute", catch)
    try:
        yield caught
    finally:
        event.remove(Engine, "before_cursor_execute", catch)


def plan(store: Path, statement: str, values: tuple) -> str:
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA case_sensitive_like = true")  # as MLflow does
        return "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values))


def test_trials_are_found_together_by_their_keys_in_every_experiment():
    ledger = Ledger()
    other = ledger.client.create_experiment(OTHER)
    here, there = log(ledger, "a"), log(ledger, "b", other)
    for key, status in (("c", "RUNNING"), ("d", "FAILED"), ("e", "KILLED")):
        log(ledger, key, status=status)
    assert find(ledger, "a", "b", "c", "d", "e", "f") == {"a": here, "b": there}
    assert find(ledger) == {}


def test_of_several_runs_of_one_trial_the_newest_counts():
    ledger = Ledger()
    log(ledger, "a", start_time=1_000)
    newest = log(ledger, "a", ledger.client.create_experiment(OTHER), start_time=3_000)
    log(ledger, "a", start_time=2_000)
    assert find(ledger, "a") == {"a": newest}


def test_runs_and_experiments_that_were_deleted_are_not_found():
    ledger = Ledger()
    other = ledger.client.create_experiment(OTHER)
    log(ledger, "a", other)
    deleted, kept = log(ledger, "b", start_time=2_000), log(ledger, "b", start_time=1_000)
    ledger.client.delete_experiment(other)
    ledger.client.delete_run(deleted)
    assert find(ledger, "a", "b") == {"b": kept}


def test_trials_are_found_in_more_experiments_than_a_page_of_them(monkeypatch):
    monkeypatch.setattr(tracking, "EXPERIMENTS_PER_PAGE", 2)
    ledger = Ledger()
    experiments = [ledger.client.create_experiment(f"{OTHER}-{number}") for number in range(4)]
    logged = {str(number): log(ledger, str(number), experiment) for number, experiment in enumerate(experiments)}
    assert find(ledger, *logged) == logged


def test_more_runs_of_a_dead_process_than_a_page_are_closed(monkeypatch):
    monkeypatch.setattr(tracking, "RUNS_PER_PAGE", 2)
    ledger = Ledger()
    runs = [log(ledger, str(number), status="RUNNING") for number in range(5)]
    for run in runs:
        ledger.client.set_tag(run, "driver", f"{platform.node()} 1 0.00")
    Ledger()
    assert {ledger.client.get_run(run).info.status for run in runs} == {"KILLED"}


def test_every_search_for_few_runs_uses_an_index_of_ours(store):
    with searches() as caught:
        ledger = Ledger()  # looks for the runs of dead processes
        ledger.find(["a"])
        ledger.newest_run("report")
    used = [re.findall(r"batch_norm_\w+", plan(store, statement, values)) for statement, values in caught]
    assert used == [["batch_norm_running"], ["batch_norm_trial_key"], ["batch_norm_kind"]]
    assert "SCAN" not in "".join(plan(store, statement, values) for statement, values in caught)


def test_a_store_that_has_no_index_of_ours_gets_them_when_it_is_opened(store):
    assert indexes_of(store) == set()
    Ledger()
    assert indexes_of(store) == NAMES


def test_a_store_that_another_process_keeps_locked_is_opened_without_indexes(store, monkeypatch):
    Ledger()
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("DROP INDEX batch_norm_trial_key")
        connection.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(tracking_store, "BUSY_SECONDS", 0)
        assert Ledger().find(["a"]) == {}
        connection.execute("COMMIT")
    Ledger()
    assert indexes_of(store) == NAMES


def test_processes_that_open_a_store_at_once_all_use_it(store):
    program = "from pipeline.tracking.ledger import Ledger; ledger = Ledger(); print(len(ledger.find(['a'])))"
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        said, complained = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, "0\n"), complained
    assert indexes_of(store) == NAMES


def test_a_servers_database_gets_the_same_indexes():
    code = re.sub(r"--.*", "", (ROOT / "deploy/indexes.sql").read_text())
    assert [" ".join(statement.split()) for statement in code.split(";") if statement.strip()] == list(INDEXES)


@pytest.mark.cluster
def test_postgresql_uses_the_indexes_too(monkeypatch):
    with shared_store() as store:
        ledger = Ledger()
        copy_run(store.database, log(ledger, "a"), 0, 2_000)
        store.settle()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store.database.url.render_as_string(hide_password=False))
        with searches() as caught:
            ledger = Ledger()
            assert ledger.find([key_of(1_999)]).keys() == {key_of(1_999)}
            ledger.newest_run("report")
        with store.database.connect() as connection:
            plans = [connection.exec_driver_sql(f"EXPLAIN {statement}", values).scalars().all() for statement, values in caught]
        store.database.dispose()
    used = [re.findall(r"batch_norm_\w+", "".join(lines)) for lines in plans]
    assert used == [["batch_norm_running"], ["batch_norm_trial_key"], ["batch_norm_kind"]], plans


@pytest.mark.cluster
def test_the_benchmark_measures_reading_and_writing_on_both_stores():
    before = set(psutil.pids())
    measured = benchmark.measure((200, 300), repeats=2)
    json.dumps(measured)
    assert {(row["store"], row["runs"], row["indexes"]) for row in measured["reads"]} == {
        (store, runs, indexes) for store in ("sqlite", "postgresql") for runs in (200, 300) for indexes in (False, True)
    }
    assert all(row[name]["n"] == 2 for row in measured["reads"] for name in ("open_s", "find_1_s", "find_100_s", "newest_run_s", "study_s"))
    assert [(row["store"], row["epochs"]) for row in measured["writes"]] == [
        (store, epochs) for store in ("postgresql", "sqlite") for epochs in ("one by one", "together")
    ]
    assert all(row["trials_per_s"]["min"] > 0 for row in measured["writes"])
    assert {"sqlite", "postgresql", "mlflow"} <= measured["environment"].keys()
    left = [process for process in psutil.process_iter(["cmdline", "environ"]) if process.pid not in before]
    # Those of other tests, which may run meanwhile, say by their folder whose they are.
    assert not [process for process in left if "supervisord" in str(process.info["cmdline"]) and "shared-server-" not in str(process.info)]
