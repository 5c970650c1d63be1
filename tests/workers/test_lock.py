"""One process of a project at a time runs trials, in whichever folder it works."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import kill_group, read_until, stage_environment

PROGRAM = "from pipeline.workers.lock import alone_with_trials as alone\nwith alone():\n    print('trains', flush=True)\n    input()"


@pytest.fixture
def train():
    """Start a process that holds the lock, in a folder of a project, until it is sent a line."""
    processes = []

    def start(folder: Path, project: Path) -> subprocess.Popen[str]:
        folder.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=folder,
            env=stage_environment(DVC_ROOT=str(project)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            kill_group(process)


def test_an_experiment_in_a_folder_of_its_own_waits_for_the_project(train, tmp_path):
    project, experiment = tmp_path / "a project", tmp_path / "a project/.dvc/tmp/exps/tmp1"
    first = train(project, project)
    read_until(first, "trains")
    second = train(experiment, project)
    read_until(second, "waiting for another process that runs trials of this project")
    first.communicate("\n")
    read_until(second, "trains")
    assert not (experiment / ".dvc").exists()


def test_another_clone_does_not_wait(train, tmp_path):
    read_until(train(tmp_path / "one", tmp_path / "one"), "trains")
    read_until(train(tmp_path / "other", tmp_path / "other"), "trains")


def test_a_process_that_is_killed_holds_the_lock_no_longer_and_what_it_half_wrote_there_is_cleared(train, tmp_path):
    project = tmp_path / "project"
    first = train(project, project)
    read_until(first, "trains")
    elsewhere = tmp_path / "project/.dvc/tmp/exps/tmp1/.trials/.key.part"
    for half_written in (project / ".trials/.key.part", elsewhere):
        half_written.mkdir(parents=True)
    kill_group(first)
    read_until(train(project, project), "trains")
    assert not (project / ".trials/.key.part").exists()
    assert elsewhere.exists()  # whoever works there clears it
