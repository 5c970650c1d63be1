"""`dvc repro` killed at random moments, and two of them at once, in clones of the project."""

import random
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import Project, clone_project, kill_group, read_until
from tests.pipelines.test_pipeline import runs_of

pytestmark = pytest.mark.resilience

SEED = 20_261_122
KILLS = 20
LONGEST_SECONDS = 30.0
TRIALS = {f"baseline-b64-s{seed}" for seed in (0, 1)} | {f"batch_norm-b{size}-s{seed}" for size in (32, 64) for seed in (0, 1)}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A clone that was never run, to be copied; its trials last long enough to be killed in their middle."""
    project = clone_project(tmp_path_factory.mktemp("repro") / "project")
    project.change("trial", "epochs", to=60)
    return project


def stages_of(project: Project) -> dict:
    """What dvc.lock says of every stage, with the MD5 of every output."""
    return YAML(typ="safe").load(project.root / "dvc.lock")["stages"]


def is_killed_after(seconds: float, project: Project, **environment: str) -> bool:
    """Start `dvc repro` and kill it with all its processes; False if it had succeeded before."""
    repro = project.start("dvc", "repro", **environment)
    try:
        output, _ = repro.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill_group(repro)
        return True
    assert repro.returncode == 0, output
    return False


def leftovers(project: Project, temporary: Path) -> list[Path]:
    """Half-written and temporary files; the lock of a tracking store stays, since a lock must not be removed."""
    unfinished = [*project.root.glob("**/.*.part"), *project.root.glob(".trials")]
    return [*unfinished, *(path for path in temporary.iterdir() if "lock" not in path.name)]


def test_killed_at_random_moments_it_makes_the_same_and_leaves_nothing(project, tmp_path, record_property):
    undisturbed = project.copy(tmp_path / "undisturbed")
    undisturbed.succeed("dvc", "repro")
    moments, kills, copies = random.Random(SEED), 0, 0
    while kills < KILLS:
        disturbed = project.copy(tmp_path / f"disturbed-{copies}")
        copies += 1
        with tempfile.TemporaryDirectory() as temporary:
            while kills < KILLS and is_killed_after(moments.uniform(1, LONGEST_SECONDS), disturbed, TMPDIR=temporary):
                kills += 1
            disturbed.succeed("dvc", "repro", TMPDIR=temporary)
            assert not leftovers(disturbed, Path(temporary))
        assert stages_of(disturbed) == stages_of(undisturbed)
        runs = runs_of(disturbed)
        assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
        assert Counter(run.info.run_name for run in runs if run.info.status == "FINISHED") == Counter(TRIALS)
    print(f"seed {SEED}: {kills} kills in {copies} copies")
    record_property("kills_survived", kills)


def test_a_second_repro_names_the_first_and_leaves(project, tmp_path):
    shared = project.copy(tmp_path / "shared")
    first = shared.start("dvc", "repro")
    read_until(first, "finished (1/2 trials)")
    second = shared.run("dvc", "repro")
    assert second.returncode != 0
    assert "is busy, it is being blocked by:" in second.stderr
    assert f"(PID {first.pid})" in second.stderr
    assert "Traceback" not in second.stderr
    first.communicate()
    assert first.returncode == 0
    assert Counter(run.info.run_name for run in runs_of(shared)) == Counter(TRIALS)
