"""MLflow's tracking store: how it is opened, and how several processes share it."""

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url

from pipeline.tracking.names import EVALUATION, KIND, REPORT, TRIAL_KEY, VERDICTS

# MLflow's notes on each table it makes, and a bar for each file it copies, would drown the trials' progress.
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it logs with a traceback, it raises too
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each trial, and a question to the server

RETRIES_VARIABLE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
LOCKED = "database is locked"
BUSY_SECONDS = 60
SECONDS_BETWEEN_CALLS = 1
LOCKED_SECONDS = 240  # as long as MLflow asks a server again, by default
# MLflow itself has no index by which a tag's value is found, or an open run. deploy/indexes.sql gives a server's database the same.
# Each holds only rows that are ours: other tags may be too long for an index.
INDEXES = (
    f"CREATE INDEX IF NOT EXISTS batch_norm_trial_key ON tags (value) WHERE key = '{TRIAL_KEY}'",
    f"CREATE INDEX IF NOT EXISTS batch_norm_kind ON tags (value)"
    f" WHERE key = '{KIND}' AND (value = '{EVALUATION}' OR value = '{REPORT}' OR value = '{VERDICTS}')",
    "CREATE INDEX IF NOT EXISTS batch_norm_running ON runs (status, experiment_id, lifecycle_stage) WHERE status = 'RUNNING'",
)


class PatientClient:
    """An MLflow client whose calls wait while another process keeps a sqlite store locked; MLflow itself gives up after 20 s."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(patiently, getattr(self._client, name))


def patiently(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - passes on what the call takes and gives
    """Make a call to the tracking store, and repeat it while another process keeps a sqlite store locked."""
    deadline = time.monotonic() + LOCKED_SECONDS
    while True:
        try:
            return call(*arguments, **named)
        except MlflowException as error:
            if LOCKED not in str(error) or time.monotonic() > deadline:
                raise
            print("another process keeps the tracking store locked; waiting for it", flush=True)
            time.sleep(SECONDS_BETWEEN_CALLS)  # MLflow has mostly waited already, but sqlite may refuse at once


def open_store(tracking_uri: str) -> PatientClient:
    """Connect, and fail soon if nobody answers. One process at a time initialises a new sqlite store."""
    sqlite = tracking_uri.startswith("sqlite:")
    with asking_once_more(), store_lock():
        if sqlite:
            _execute(tracking_uri, "PRAGMA journal_mode=WAL")  # readers, as the UI, never wait for writers
        client = MlflowClient(tracking_uri)
        client.search_experiments(max_results=1)
        if sqlite:
            with suppress(sqlite3.OperationalError):  # if it is locked or full, the next opening makes them
                _execute(tracking_uri, *INDEXES)
    return PatientClient(client)


def _execute(tracking_uri: str, *statements: str) -> None:
    with closing(sqlite3.connect(make_url(tracking_uri).database or "", timeout=BUSY_SECONDS)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def asking_once_more() -> Iterator[None]:
    """Let MLflow ask a server that does not answer only once more in the block, where it would go on for minutes."""
    before = os.environ.get(RETRIES_VARIABLE)
    os.environ[RETRIES_VARIABLE] = "1"
    try:
        yield
    finally:
        os.environ.pop(RETRIES_VARIABLE)
        if before is not None:
            os.environ[RETRIES_VARIABLE] = before


@contextmanager
def unless_it_is_there() -> Iterator[None]:
    """Pass over what MLflow says when that which is made in the block is there already."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def store_lock() -> FileLock:
    """Return the lock that lets one process of this user at a time look into the store and change it by what is there."""
    # Not in this process's own folder for temporary files: all processes of a user must meet here.
    return FileLock(Path("/tmp") / f"batch-norm-laboratory-store-{os.getuid()}.lock", timeout=300)  # noqa: S108 - a lock, never read
