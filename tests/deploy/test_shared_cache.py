"""DVC's cache on S3-compatible storage, shared by two clones of the project."""

import hashlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from tests.conftest import Project
from tests.object_storage import SECRET_KEY, ObjectStorage, certificate, object_storage
from tests.pipelines.test_experiments import built_small
from tests.pipelines.test_pipeline import stages_run

pytestmark = pytest.mark.cluster

OTHER_LEARNING_RATE = 0.0005
RESULTS = ("data", "results", "reports")
UPLOADS_BEFORE_THE_END = 5


def stages_of(project: Project) -> dict:
    """What dvc.lock says of every stage, with the MD5 of every output."""
    return YAML(typ="safe").load(project.root / "dvc.lock")["stages"]


def contents(project: Project) -> dict[str, str]:
    """MD5 of every file that the stages made."""
    files = (path for folder in RESULTS for path in (project.root / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(project.root)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def trained(project: Project) -> list[str]:
    """Names of the trials in the project's own store."""
    if not (project.root / "mlflow.db").exists():
        return []
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.run_name for run in client.search_runs(experiments, "tags.kind = 'trial'")]


@contextmanager
def learning_rate(project: Project, value: float) -> Iterator[None]:
    """Set the learning rate for the block, and set it back."""
    before = YAML(typ="safe").load(project.root / "params.yaml")["trial"]["learning_rate"]
    project.change("trial", "learning_rate", to=value)
    yield
    project.change("trial", "learning_rate", to=before)


def use_storage(project: Project, address: str) -> None:
    """Name the storage in what is committed."""
    project.succeed("dvc", "remote", "add", "--force", "--default", "storage", "s3://cache/dvc")
    project.succeed("dvc", "remote", "modify", "storage", "endpointurl", address)


def clone_of(project: Project, root: Path) -> Project:
    """What a colleague has after `git clone`: no data, no results, no runs."""
    subprocess.run(["git", "clone", "--quiet", str(project.root), str(root)], check=True)
    return Project(root)


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    with object_storage(tmp_path_factory.mktemp("storage") / "buckets") as storage:
        yield storage


@pytest.fixture(scope="module")
def author(storage, tmp_path_factory) -> Project:
    """Has trained at two learning rates, and pushed at each; the `dvc.lock` of the other is beside the project."""
    project = built_small(tmp_path_factory).copy(tmp_path_factory.mktemp("author") / "project")
    project.environment |= storage.credentials
    use_storage(project, storage.address)
    project.commit("storage")
    with learning_rate(project, OTHER_LEARNING_RATE):
        project.succeed("dvc", "repro")
        project.succeed("dvc", "push", "--run-cache")
        shutil.copy(project.root / "dvc.lock", project.root.with_name("other.lock"))
    project.succeed("dvc", "repro")
    assert project.succeed("git", "status", "--porcelain") == ""  # it is as it was
    project.succeed("dvc", "push", "--run-cache")
    return project


@pytest.fixture
def colleague(author, storage, tmp_path) -> Project:
    project = clone_of(author, tmp_path / "colleague's clone")
    project.environment |= storage.credentials
    return project


def test_an_empty_clone_gets_the_same_results_and_has_nothing_to_run(author, colleague):
    colleague.succeed("dvc", "pull")
    said = colleague.succeed("dvc", "repro")
    assert "Data and pipelines are up to date" in said
    assert not stages_run(said)
    assert contents(colleague) == contents(author)
    assert colleague.succeed("git", "status", "--porcelain") == ""
    assert not trained(colleague)


def test_after_a_parameter_is_changed_and_changed_back_nothing_is_trained(author, colleague):
    colleague.succeed("dvc", "pull", "--run-cache")
    with learning_rate(colleague, OTHER_LEARNING_RATE):
        colleague.succeed("dvc", "repro", "--pull", "preprocess", "train@baseline")
    assert stages_run(colleague.succeed("dvc", "repro")) == set()
    assert contents(colleague) == contents(author)
    assert colleague.succeed("git", "status", "--porcelain") == ""
    assert not trained(colleague)


def test_what_another_has_trained_and_pushed_is_restored_instead_of_trained(author, colleague):
    colleague.succeed("dvc", "pull")
    with learning_rate(colleague, OTHER_LEARNING_RATE):
        assert stages_run(colleague.succeed("dvc", "repro", "--pull")) == {"report"}  # it is in git, so DVC keeps no copy
        assert stages_of(colleague) == YAML(typ="safe").load(author.root.with_name("other.lock"))["stages"]
    assert stages_run(colleague.succeed("dvc", "repro")) == {"report"}
    assert contents(colleague) == contents(author)
    assert colleague.succeed("git", "status", "--porcelain") == ""
    assert not trained(colleague)


def test_only_outputs_and_what_made_them_are_stored(author, storage):
    objects = storage.objects("cache")
    assert {tuple(key.split("/")[:2]) for key in objects} == {("dvc", "files"), ("dvc", "runs")}
    assert not [key for key, path in objects.items() if path.read_bytes().startswith(b"SQLite format")]
    outputs = [output for stage in stages_of(author).values() for output in stage["outs"] if not output["path"].startswith("reports/")]
    assert {f"dvc/files/md5/{output['md5'][:2]}/{output['md5'][2:]}" for output in outputs} <= objects.keys()


def test_keys_of_the_local_configuration_serve_as_well_and_stay_out_of_git(colleague):
    key, secret = colleague.environment.pop("AWS_ACCESS_KEY_ID"), colleague.environment.pop("AWS_SECRET_ACCESS_KEY")
    colleague.succeed("dvc", "remote", "modify", "--local", "storage", "access_key_id", key)
    colleague.succeed("dvc", "remote", "modify", "--local", "storage", "secret_access_key", secret)
    colleague.succeed("dvc", "pull", "results/evaluate")
    assert colleague.succeed("git", "status", "--porcelain") == ""
    assert SECRET_KEY not in (colleague.root / ".dvc/config").read_text()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "Forbidden"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "Unable to locate credentials"),
    ],
    ids=["wrong", "none"],
)
def test_without_the_right_keys_nothing_moves_and_dvc_says_why(author, colleague, storage, variables, message):
    before = storage.objects("cache").keys()
    (colleague.root / "new").write_text("new")
    colleague.succeed("dvc", "add", "new")
    for command in ("pull", "push"):
        done = colleague.run("dvc", command, **variables)
        assert done.returncode != 0
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert storage.objects("cache").keys() == before
    colleague.succeed("dvc", "pull", "results/evaluate")


def test_a_storage_that_does_not_answer_is_named(colleague, tmp_path):
    with object_storage(tmp_path / "buckets") as gone:
        gone.kill()
    use_storage(colleague, gone.address)
    done = colleague.run("dvc", "pull")
    assert done.returncode != 0
    assert f'Could not connect to the endpoint URL: "{gone.address}' in done.stderr


def test_a_bucket_that_is_not_there_is_named(colleague, storage):
    colleague.succeed("dvc", "remote", "modify", "storage", "url", "s3://none/dvc")
    done = colleague.run("dvc", "pull")
    assert done.returncode != 0
    assert "ERROR" in done.stderr


def wait_for_uploads(storage: ObjectStorage) -> None:
    deadline = time.monotonic() + 60
    while len(storage.objects("cache")) < UPLOADS_BEFORE_THE_END:
        assert time.monotonic() < deadline, "nothing was uploaded"
        time.sleep(0.05)


@pytest.mark.parametrize("killed", ["storage", "push"])
def test_a_push_that_breaks_off_is_completed_by_the_next(author, tmp_path, killed, record_property):
    project = author.copy(tmp_path / "project")
    with object_storage(tmp_path / "buckets", "--tpslimit", "10", "--tpslimit-burst", "1") as slow:
        use_storage(project, slow.address)
        push = project.start("dvc", "push", "--run-cache", "--jobs", "2")
        wait_for_uploads(slow)
        slow.kill() if killed == "storage" else push.kill()
        said, _ = push.communicate()
        assert push.returncode != 0
        assert killed == "push" or "ERROR" in said
    before = len(slow.objects("cache"))
    with object_storage(tmp_path / "buckets", port=int(slow.address.rpartition(":")[2])) as storage:
        project.succeed("dvc", "push", "--run-cache")
        assert len(storage.objects("cache")) > before
        project.commit("storage")
        colleague = clone_of(project, tmp_path / "colleague")
        colleague.environment |= storage.credentials
        colleague.succeed("dvc", "pull", "--run-cache")
        assert contents(colleague) == contents(author)
        assert "Data and pipelines are up to date" in colleague.succeed("dvc", "repro")
    record_property("pushes_broken_off", 1)


@pytest.mark.parametrize("told_by", ["DVC", "environment"])
def test_a_certificate_of_an_own_authority_is_checked(author, tmp_path, told_by):
    project = author.copy(tmp_path / "project")
    authority, key = certificate(tmp_path)
    with object_storage(tmp_path / "buckets", "--cert", str(authority), "--key", str(key)) as storage:
        use_storage(project, storage.address)
        done = project.run("dvc", "push", "results/evaluate")
        assert done.returncode != 0
        assert "certificate verify failed" in done.stderr.lower()
        assert not storage.objects("cache")
        if told_by == "DVC":
            project.succeed("dvc", "remote", "modify", "--local", "storage", "ssl_verify", str(authority))
        else:
            project.environment["AWS_CA_BUNDLE"] = str(authority)
        project.succeed("dvc", "push", "results/evaluate")
        assert storage.objects("cache")
