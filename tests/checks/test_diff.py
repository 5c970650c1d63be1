"""`make diff` in a repository of its own that holds what it reads."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

GITHUB_COMMENT = 65_536


class Repository:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.metrics = root / "reports/notebook/metrics.json"
        self.parameters = root / "params.yaml"

    def diff(self, base: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "BASE": base, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.run(
            ["make", "--old-file=setup", "diff"], cwd=self.root, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    def summary(self) -> str:
        done = self.diff("HEAD")
        assert done.returncode == 0, done.stderr
        return (self.root / ".diff/summary.md").read_text()


@pytest.fixture
def repository(tmp_path) -> Repository:
    for name in (".dvc/plots", "reports"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in (".dvc/config", "Makefile", "dvc.yaml", "params.yaml"):
        shutil.copy2(ROOT / name, tmp_path / name)
    for command in ("init", "add --all", "-c user.name=test -c user.email=test@localhost commit --message before"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, capture_output=True, check=True)
    return Repository(tmp_path)


def change(node, by):
    return {key: change(value, by) for key, value in node.items()} if isinstance(node, dict) else node + by


def test_changed_values_stand_beside_those_of_the_base(repository):
    repository.parameters.write_text(repository.parameters.read_text().replace("  epochs: 20\n", "  epochs: 7\n"))
    metrics = json.loads(repository.metrics.read_text())
    accuracy = metrics["batch_size_grid"]["128"]["final"]["val_accuracy"]
    accuracy["mean"] = 0.25
    repository.metrics.write_text(json.dumps(metrics))
    summary = repository.summary()
    assert "Compared with `HEAD`" in summary
    assert re.search(r"\| trial\.epochs +\| 20 +\| 7 +\|", summary)
    assert re.search(r"\| batch_size_grid\.128\.final\.val_accuracy\.mean +\| 0\.\d+ +\| 0\.25 +\| -0\.\d+ +\|", summary)
    plots = (repository.root / ".diff/plots/index.html").read_text()
    assert '"rev": "HEAD"' in plots
    assert '"rev": "workspace"' in plots


def test_without_changes_it_says_so(repository):
    assert repository.summary().count("No change.") == 2


def test_a_long_table_is_cut_to_what_github_takes_as_a_comment(repository):
    metrics = json.loads(repository.metrics.read_text())
    repository.metrics.write_text(json.dumps(change(metrics, by=1)))
    summary = repository.summary()
    whole = (repository.root / ".diff/metrics.md").read_text()
    hidden = [line for line in whole.splitlines() if line not in summary]
    assert len(hidden) > 500
    assert f"\n{len(hidden)} more in .diff/metrics.md\n" in summary
    assert len(summary) < GITHUB_COMMENT / 2


@pytest.mark.parametrize("base", ["nosuch", "HEAD; touch injected", "$(shell touch injected)", "--help"])
def test_a_base_that_is_no_commit_is_one_clear_error(repository, base):
    done = repository.diff(base)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == f"error: BASE={base} is not a commit; try make diff BASE=HEAD~1"
    assert not (repository.root / "injected").exists()
