"""The three steps of docs/scaling.md, run as they stand there; only addresses, ports, buckets and keys are others."""

import re
import secrets
from contextlib import suppress

import psutil
import pytest

from pipeline.common.files import remove
from tests.conftest import ROOT, Project
from tests.deploy.test_shared_cache import clone_of, stages_of
from tests.object_storage import object_storage
from tests.pipelines.test_experiments import built_small, runs_of, wait_for_queue
from tests.pipelines.test_pipeline import stages_run
from tests.shared_server import free_ports, running_server

pytestmark = pytest.mark.cluster

STEPS = re.findall(r"^## Step \d: .*?(?=^## )", (ROOT / "docs/scaling.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
START_SERVER, ADD_USER, _, USE_SERVER = re.findall(r"```sh\n(.*?)```", STEPS[0], re.DOTALL)
PUSH, PULL, EXPERIMENTS = re.findall(r"```sh\n(.*?)```", STEPS[1], re.DOTALL)
START_NODES, USE_NODES = re.findall(r"```sh\n(.*?)```", STEPS[2], re.DOTALL)


def follow(project: Project, lines: str, others: dict[str, str] | None = None, answers: tuple[str, ...] = (), **environment: str) -> str:
    """Run lines of the page, with what they have for example replaced by what there is, and answers to what they ask."""
    for example, real in (others or {}).items():
        assert example in lines
        lines = lines.replace(example, real)
    typed = "".join(f"{answer}\n" for answer in answers)
    return project.succeed("bash", "-euo", "pipefail", "-c", f"{lines}\n", typed=typed, **environment)


@pytest.fixture
def project(tmp_path_factory, tmp_path) -> Project:
    """A small project whose results are committed, after its environment was made."""
    project = built_small(tmp_path_factory).copy(tmp_path / "project")
    project.environment = {name: value for name, value in project.environment.items() if not name.startswith("RAY_")}
    (project.root / ".venv").symlink_to(ROOT / ".venv")
    return project


def outputs(project: Project) -> dict:
    """What dvc.lock says of all that stages made, hash for hash."""
    return {name: stage["outs"] for name, stage in stages_of(project).items()}


def forget_results(project: Project) -> dict:
    """Remove all that stages made; return what it was."""
    before = outputs(project)
    for made in (".dvc/cache", "data", "results", "dvc.lock"):
        remove(project.root / made)
    return before


def test_step_1_one_ledger_for_all(project):
    assert START_SERVER.split("#")[0].split() == ["make", "server"]
    with running_server() as server:  # which starts what `make server` starts
        admin, alice = server.secrets()["MLFLOW_AUTH_ADMIN_PASSWORD"], secrets.token_hex(16)
        said = follow(project, ADD_USER, {"http://127.0.0.1:5000": server.uri}, answers=(admin, alice))
        assert f"alice may use {server.uri}" in said
        by_oneself = forget_results(project)
        follow(project, USE_SERVER, {"https://server.example.org:5000": server.uri}, answers=(alice,))
        assert forget_results(project) == by_oneself
        said = follow(project, USE_SERVER, {"https://server.example.org:5000": server.uri}, answers=(alice,))
        assert outputs(project) == by_oneself
        assert "1 of 1 trials are in the ledger already" in said
        assert " finished" not in said
    assert not list(project.root.glob("mlflow.db*"))


def test_step_2_one_cache_for_all(project, tmp_path):
    with object_storage(tmp_path / "buckets", bucket="bucket") as storage:
        keys = {"=… ": f"={storage.credentials['AWS_ACCESS_KEY_ID']} ", "=…\n": f"={storage.credentials['AWS_SECRET_ACCESS_KEY']}\n"}
        elsewhere = {name: value for name, value in storage.credentials.items() if "KEY" not in name}
        follow(project, PUSH, {"https://storage.example:9000": storage.address, **keys}, **elsewhere)
        project.commit("storage")
        colleague = clone_of(project, tmp_path / "colleague")
        said = follow(colleague, PULL, **storage.credentials)
    assert "Data and pipelines are up to date" in said
    assert not stages_run(said)
    assert colleague.succeed("git", "status", "--porcelain") == ""


def test_step_2_experiments(project):
    start, show = EXPERIMENTS.split("dvc exp show")
    assert "once nothing is left in `dvc queue status`" in show
    follow(project, start)
    wait_for_queue(project)
    runs = [run for run in runs_of(project) if run.data.tags["kind"] == "trial"]
    assert {run.data.params["learning_rate"] for run in runs} == {"0.0005", "0.002", "0.003"}
    shown = project.succeed("dvc", "exp", "show", "--csv")
    assert all(run.data.tags["dvc.experiment"] in shown for run in runs)


def test_step_3_trials_on_a_cluster(project, tmp_path):
    home, port = tmp_path / "home", free_ports(1)[0]
    home.mkdir()
    there = {"HEAD:6379": f"127.0.0.1:{port}"}
    try:
        follow(project, START_NODES, {**there, "--port=6379": f"--port={port}"}, HOME=str(home))
        assert (home / ".ray/auth_token").stat().st_mode & 0o077 == 0
        on_one_machine = forget_results(project)
        said = follow(project, USE_NODES, there, HOME=str(home), RAY_AUTH_MODE="token")
    finally:
        end_what_has_home(str(home))
    assert "the cluster has room for" in said
    assert " finished" in said
    assert outputs(project) == on_one_machine


def end_what_has_home(home: str) -> None:
    """Kill what `ray start` has left running; `ray stop` would end the clusters of others, too."""
    parents = [process for process in psutil.process_iter() if home_of(process) == home]
    # Some write a title over their environment, and do not notice when their parent is gone.
    left = {*parents, *(child for parent in parents for child in parent.children(recursive=True))}
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=30)


def home_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("HOME", "")
    except psutil.Error:
        return ""
