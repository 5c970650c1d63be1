"""Small real things to test on: a synthetic data set, and a clone of the project that uses it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# Before anything of the project is imported: what the caller has set must not reach the tests.
for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DVC_", "TRIAL_", "PYTHONDONTWRITEBYTECODE"))]:
    del os.environ[name]

# ruff: noqa: E402
import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline.dataset import Examples
from pipeline.parameters import Parameters, load_parameters
from tests.synthetic import make_files, md5_of, parameters_data, write_folder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def parameters() -> Parameters:
    return load_parameters(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def examples() -> tuple[Examples, Examples]:
    """Training (210) and validation (90) examples that a network can learn."""
    random = np.random.default_rng(0)
    labels = (np.arange(300) % 10).astype(np.uint8)
    patterns = random.integers(0, 256, (10, 32, 32, 3))
    images = (0.5 * patterns[labels] + random.integers(0, 128, (300, 32, 32, 3))).astype(np.uint8)
    return Examples(images[:210], labels[:210]), Examples(images[210:], labels[210:])


@pytest.fixture
def processed(tmp_path: Path, examples) -> Path:
    """The folder that `preprocess` would write for those examples."""
    for name, split in zip(("train", "validation"), examples, strict=True):
        folder = tmp_path / "data/processed" / name
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", split.images)
        np.save(folder / "labels.npy", split.labels)
    return tmp_path / "data/processed"


class Project:
    """A clone of this project in a folder of its own, on synthetic data."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.root, env={**self.environment, **environment}, capture_output=True, text=True, check=False, timeout=400
        )

    def succeed(self, *command: str, **environment: str) -> str:
        done = self.run(*command, **environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def change(self, *path: str, to: object) -> None:
        yaml = YAML()
        content = yaml.load(self.root / "params.yaml")
        node = content
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = to
        yaml.dump(content, self.root / "params.yaml")


def clone_project(root: Path) -> Project:
    """Copy what git would have, point it at synthetic data, shrink it, and commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    (root / "dvc.lock").unlink(missing_ok=True)
    shutil.rmtree(root / "reports", ignore_errors=True)
    project = Project(root)
    files = make_files(images_per_file=50)
    source = write_folder(root.parent / f"{root.name}-mirror", files)
    project.change("data", to=parameters_data([source], md5_of(files)))
    project.change("trial", "epochs", to=2)
    for study in ("train", "batch_size_grid"):
        project.change("studies", study, "seeds", to=[0, 1])
    project.change("studies", "batch_size_grid", "grid", "batch_size", to=[32, 64])
    project.succeed("git", "init", "-q")
    project.succeed("git", "add", "-A")
    project.succeed("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "clone")
    return project
