"""Stores to measure the ledger on: a sqlite file, and the shared server of deploy/server; and very many runs in them."""

import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import requests
import sqlalchemy
from sqlalchemy import Engine, MetaData, Table, case, func, insert, select, true

from benchmarks.protocol import ROOT
from pipeline.common.errors import PipelineError
from pipeline.common.loopback import HOST
from pipeline.tracking.store import INDEXES

SECONDS_TO_START = 180
SECONDS_TO_STOP = 90
STUDY = "measured"
STUDY_TRIALS = 100
OTHER_STUDIES = 20
SPACING_MS = 60_000


@dataclass(frozen=True)
class Store:
    """A store that the environment names as MLflow's, and its database, for what nobody does through MLflow."""

    name: str
    database: Engine

    def drop_indexes(self) -> None:
        """Leave the store with MLflow's own indexes."""
        self._execute(*(f"DROP INDEX IF EXISTS {statement.split()[5]}" for statement in INDEXES))

    def make_indexes(self) -> None:
        """Give it the project's indexes."""
        self._execute(*INDEXES)

    def settle(self) -> None:
        """Let the database count its rows, as PostgreSQL does by itself within a minute of a large change."""
        if self.database.dialect.name == "postgresql":
            self._execute("VACUUM ANALYZE")

    def _execute(self, *statements: str) -> None:
        with self.database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in statements:
                connection.execute(sqlalchemy.text(statement))


@contextmanager
def sqlite_store() -> Iterator[Store]:
    """Make an empty folder the project whose default store is used."""
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder, _environment({"DVC_ROOT": folder}):
        yield Store("sqlite", sqlalchemy.create_engine(f"sqlite:///{folder}/mlflow.db"))


@contextmanager
def shared_store() -> Iterator[Store]:
    """Start deploy/server on free ports, with empty folders, and log in as its administrator; end it afterwards.

    Raises:
        PipelineError: it does not start; the message says why.
    """
    folder = Path(tempfile.mkdtemp(prefix="ledger-"))
    folder.chmod(0o711)  # started by root, PostgreSQL runs as another user, who must get in
    try:
        port, database_port, s3_port = map(str, _free_ports(3))
        password, database_password = secrets.token_hex(16), secrets.token_hex(16)
        settings = {"SERVER_FOLDER": str(folder), "MLFLOW_PORT": port, "PGPORT": database_port, "S3_PORT": s3_port}
        hidden = {"MLFLOW_AUTH_ADMIN_PASSWORD": password, "PGPASSWORD": database_password}
        client = {"MLFLOW_TRACKING_URI": f"http://{HOST}:{port}", "MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}
        with _server(folder, settings | hidden), _environment({"DVC_ROOT": str(folder), **client}):
            address = f"postgresql+psycopg2://mlflow:{database_password}@{HOST}:{database_port}/mlflow"
            yield Store("postgresql", sqlalchemy.create_engine(address))
    finally:
        shutil.rmtree(folder)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    others = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACKING_", "MLFLOW_EXPERIMENT_"))}
    with mock.patch.dict(os.environ, {**others, **variables}, clear=True):
        yield


@contextmanager
def _server(folder: Path, settings: dict[str, str]) -> Iterator[None]:
    foreign = ("MLFLOW_", "PG", "AWS_", "S3_", "UVICORN_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    said = folder / "said"
    with said.open("w") as output:
        # It ends with this process, however that ends.
        command = ["setpriv", "--pdeathsig", "TERM", str(ROOT / "deploy/server")]
        process = subprocess.Popen(command, env=variables | settings, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_for(process, f"http://{HOST}:{settings['MLFLOW_PORT']}/health", said)
        yield
    finally:
        process.terminate()
        process.wait(SECONDS_TO_STOP)


def _wait_for(process: "subprocess.Popen[bytes]", address: str, said: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while not _answers(address):
        if process.poll() is not None or time.monotonic() > deadline:
            last = said.read_text().strip().split("\n")[-1].removeprefix("error: ")
            raise PipelineError(f"deploy/server does not start: {last}")
        time.sleep(0.5)


def _answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for unused in sockets:
            unused.bind((HOST, 0))
        return [unused.getsockname()[1] for unused in sockets]


def key_of(number: int) -> str:
    """Trial key of a copy."""
    return hashlib.sha256(f"trial {number}".encode()).hexdigest()


def study_of(number: int) -> str:
    """Which study a copy belongs to: the first hundred to the one that is measured."""
    return STUDY if number < STUDY_TRIALS else f"other_{number % OTHER_STUDIES}"


def copy_run(database: Engine, run_id: str, first: int, last: int) -> None:
    """Add copies of a run, with numbers from `first` to before `last`, each with a key, a study and a time of its own.

    Row by row as MLflow writes them, but not by MLflow, which would take hours; the history of metrics is left out.
    """
    with database.begin() as connection:
        tables = MetaData()
        tables.reflect(connection, only=["runs", "tags", "params", "latest_metrics", "inputs"])
        copies = _copies(tables)
        copies.create(connection)
        connection.execute(insert(copies), [_copy(number) for number in range(first, last)])
        for table, of_copy in _values(tables.tables, copies).items():
            source = table.join(copies, true())
            owner = table.c.destination_id if table.name == "inputs" else table.c.run_uuid
            columns = [of_copy.get(column.name, column) for column in table.c]
            rows = select(*columns).select_from(source).where(owner == run_id).order_by(copies.c.start_time)
            connection.execute(insert(table).from_select([column.name for column in table.c], rows))
        copies.drop(connection)


def _copies(tables: MetaData) -> Table:
    columns = [sqlalchemy.Column(name, sqlalchemy.String) for name in ("run_id", "trial_key", "study")]
    return Table("copies", tables, *columns, sqlalchemy.Column("start_time", sqlalchemy.BigInteger), prefixes=["TEMPORARY"])


def _copy(number: int) -> dict[str, object]:
    run_id = hashlib.md5(key_of(number).encode(), usedforsecurity=False).hexdigest()
    return {"run_id": run_id, "trial_key": key_of(number), "study": study_of(number), "start_time": number * SPACING_MS}


def _values(tables: Mapping[str, Table], copies: Table) -> dict[Table, dict[str, Any]]:
    """Give what a copy has of its own in each table, by column."""
    tags, inputs, run = tables["tags"], tables["inputs"], {"run_uuid": copies.c.run_id}
    own_tags = case((tags.c.key == "trial_key", copies.c.trial_key), (tags.c.key == "study", copies.c.study), else_=tags.c.value)
    input_id = func.substr(copies.c.run_id, 1, 24).concat(func.substr(inputs.c.input_uuid, 1, 8))
    return {
        tables["runs"]: {**run, "start_time": copies.c.start_time, "end_time": copies.c.start_time},
        tags: {**run, "value": own_tags},
        tables["params"]: run,
        tables["latest_metrics"]: run,
        inputs: {"destination_id": copies.c.run_id, "input_uuid": input_id},
    }
