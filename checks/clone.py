"""A copy of the project in a folder of its own, with a store and a cache of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from checks.synthetic import make_files, md5_of, parameters_data, write_folder
from pipeline.common.errors import PipelineError

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ("core", "learning_rate", "initialization", "dropout", "tiny_batches", "continued_training")
RESULTS = ("dvc.lock", "reports/", "claims/dvc.lock")
SHRUNKEN_CLAIMS = {
    **{f"studies.{study}.seeds": [0, 1] for study in STUDIES},
    "studies.learning_rate.grid.learning_rate": [0.001, 0.01],
    "studies.initialization.grid.kernel_gain": [0.1, 1.0],
    "studies.dropout.grid.epochs": [2],
    "studies.tiny_batches.grid.training_images": [64],
    "studies.tiny_batches.grid.batch_size": [2, 32],
    "timing.blocks": 8,
    "timing.steps_per_leg": 1,
    "mechanisms.epochs": 1,
    "mechanisms.images": 40,
    "mechanisms.steps": [0, 1],
    "mechanisms.batch_sizes": [2, 16],
}
LAST_CHARACTERS = 2000
COMMIT = ("git", "-c", "user.name=clone", "-c", "user.email=clone@localhost", "commit", "--quiet")


class Clone:
    """Runs commands in the copy; what the caller has set for MLflow, DVC and trials does not reach them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "TRIAL_"))}
        quiet = {"DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.environment = {**ours, **quiet, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(self, *command: str, typed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with what is typed meanwhile."""
        variables = {**self.environment, **environment}
        return subprocess.run(command, cwd=self.root, env=variables, input=typed, capture_output=True, text=True, check=False)

    def succeed(self, *command: str, typed: str = "", **environment: str) -> str:
        """Run a command and return what it printed, or raise a PipelineError with the end of that if it fails."""
        done = self.run(*command, typed=typed, **environment)
        printed = done.stdout + done.stderr
        if done.returncode != 0:
            raise PipelineError(f"`{' '.join(command)}` failed in {self.root}; the last it said was: {printed[-LAST_CHARACTERS:]}")
        return printed

    def change(self, *path: str, to: object, file: str = "params.yaml") -> None:
        """Change one value of params.yaml, or of another file of parameters, and keep the file's style."""
        yaml = YAML()
        yaml.indent(mapping=2, sequence=4, offset=2)
        content = yaml.load(self.root / file)
        node: Any = content
        for key in path[:-1]:
            node = node[key]
        if isinstance(to, list) and not any(isinstance(item, dict) for item in to):
            to = CommentedSeq(to)
            to.fa.set_flow_style()
        node[path[-1]] = to
        yaml.dump(content, self.root / file)

    def commit(self, message: str) -> None:
        """Commit all that has changed."""
        self.succeed("git", "add", "--all")
        self.succeed(*COMMIT, "--message", message)


def clone_commit(root: Path) -> Clone:
    """Clone what is committed."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(root)], check=True)
    return Clone(root)


def copy_work_tree(root: Path) -> Clone:
    """Copy what git would have if everything were committed now, without the results, as a repository of its own."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in names:
        if (ROOT / name).is_file() and not name.startswith(RESULTS):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    clone = Clone(root)
    clone.succeed("git", "init", "--quiet")
    return clone


def shrink_to_synthetic_data(clone: Clone, mirror: Path) -> None:
    """Let it learn a lookalike of CIFAR-10, written to the folder `mirror` unless it is there, in two epochs and two seeds; commit."""
    files = make_files(images_per_file=50)
    if not mirror.exists():
        write_folder(mirror, files)
    clone.change("data", to=parameters_data([mirror], md5_of(files)))
    clone.change("trial", "epochs", to=2)
    for study in ("train", "batch_size_grid"):
        clone.change("studies", study, "seeds", to=[0, 1])
    clone.change("studies", "batch_size_grid", "grid", "batch_size", to=[32, 64])
    for path, value in SHRUNKEN_CLAIMS.items():
        clone.change(*path.split("."), to=value, file="claims/params.yaml")
    clone.commit("clone")
