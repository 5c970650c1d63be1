"""Small real things to test on: a synthetic data set, and a clone of the project that uses it."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

# Before anything of the project is imported: what the caller has set must not reach the tests.
for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DVC_", "TRIAL_", "PYTHONDONTWRITEBYTECODE"))]:
    del os.environ[name]

# ruff: noqa: E402
import numpy as np
import psutil
import pytest
from filelock import FileLock
from ruamel.yaml import YAML

from checks.clone import ROOT, Clone, copy_work_tree, shrink_to_synthetic_data
from pipeline.images.arrays import Examples, save_examples
from pipeline.trials.parameters import Parameters, load_parameters


@pytest.fixture(scope="session")
def parameters() -> Parameters:
    return load_parameters(ROOT / "params.yaml")


@pytest.fixture
def changed(tmp_path):
    """Write the project's params.yaml with one value changed (or, given no value, removed)."""

    def write(*path: str, **to) -> Path:
        yaml = YAML()
        content = yaml.load(ROOT / "params.yaml")
        node = content
        for key in path[:-1]:
            node = node[key]
        if to:
            node[path[-1]] = to["to"]
        else:
            del node[path[-1]]
        yaml.dump(content, tmp_path / "params.yaml")
        return tmp_path / "params.yaml"

    return write


@pytest.fixture(scope="session")
def examples() -> tuple[Examples, Examples]:
    """Training (210) and validation (90) examples that a network can learn."""
    random = np.random.default_rng(0)
    labels = (np.arange(300) % 10).astype(np.uint8)
    patterns = random.integers(0, 256, (10, 32, 32, 3))
    images = (0.5 * patterns[labels] + random.integers(0, 128, (300, 32, 32, 3))).astype(np.uint8)
    classes = tuple(f"class {label}" for label in range(10))
    return Examples(images[:210], labels[:210], classes), Examples(images[210:], labels[210:], classes)


@pytest.fixture
def processed(tmp_path: Path, examples) -> Path:
    """The folder that `preprocess` would write for those examples."""
    for name, split in zip(("train", "validation"), examples, strict=True):
        folder = tmp_path / "data/processed" / name
        folder.mkdir(parents=True)
        save_examples(split, folder)
    return tmp_path / "data/processed"


class Project(Clone):
    """A copy of the project, of which a test may start commands without waiting, and make further copies."""

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own, so that it can be killed whole; its two outputs come as one."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def copy(self, root: Path) -> "Project":
        project = Project(shutil.copytree(self.root, root, symlinks=True))
        project.environment = dict(self.environment)
        return project


def clone_project(root: Path) -> Project:
    """Copy the project, shrunken, onto synthetic data."""
    project = Project(copy_work_tree(root).root)
    shrink_to_synthetic_data(project, root.parent / f"{root.name}-mirror")
    return project


def made_once(name: str, tmp_path_factory, make: Callable[[Path], None]) -> Project:
    """A project that one of the test processes makes, for all of them; it is not to be changed."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with FileLock(shared / f"{name}.lock"):
        if not (shared / f"{name}.made").exists():
            make(shared / name)
            (shared / f"{name}.made").touch()
    return Project(shared / name)


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Project:
    """The clone after its first `dvc repro`, its results committed."""

    def build(root: Path) -> None:
        project = clone_project(root)
        project.succeed("dvc", "repro")
        project.succeed("python", "-m", "checks.environment")
        project.succeed("python", "-m", "pipeline.reporting.readme")
        project.commit("results")

    return made_once("built", tmp_path_factory, build)


@pytest.fixture(scope="session")
def laboratory(built, tmp_path_factory) -> Project:
    """The clone after its claims were measured too; what DVC said is in `.said`."""

    def build(root: Path) -> None:
        project = built.copy(root)
        (root / ".said").write_text(project.succeed("dvc", "repro", "claims/dvc.yaml"))
        project.succeed("python", "-m", "claims.reporting.readme")
        project.commit("claims")

    return made_once("laboratory", tmp_path_factory, build)


def stage_environment(**variables: str) -> dict[str, str]:
    """What a stage that a test starts finds set."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Read the process's output up to the line that has the text."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}:\n{''.join(lines)}")


def kill_group(process: subprocess.Popen[str]) -> None:
    """SIGKILL the process with all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def kill_workers() -> int:
    """Do what the kernel does when memory is short: SIGKILL whatever trains; tell how many workers that were."""
    workers = [worker for fork_server_or_tracker in psutil.Process().children() for worker in fork_server_or_tracker.children()]
    for worker in workers:
        worker.kill()
    return len(workers)
