"""Who made a run: the process, the DVC stage, the code's commit, the versions and the processor."""

import os
import subprocess
from contextlib import suppress

import psutil

from pipeline.training.environment import computing_environment

CLOCK_CORRECTION_SECONDS = 60  # a corrected clock moves the time at which a process is said to have begun


def stage_tags() -> dict[str, str]:
    """What every run of this process is tagged with: the DVC stage, the code's commit, versions and processor."""
    dvc = {"dvc.stage": os.environ.get("DVC_STAGE"), "dvc.experiment": os.environ.get("DVC_EXP_NAME")}
    return {**{name: value for name, value in dvc.items() if value}, **_git_tags(), **computing_environment()}


def host() -> str:
    """Name of this machine."""
    return os.uname().nodename


def this_process() -> str:
    """Name this process so that it is not taken for a later one with the same number."""
    process = psutil.Process()
    return f"{host()} {process.pid} {process.create_time():.2f}"


def lives(process: str) -> bool:
    """Whether the process of this host that was named so still runs."""
    _, pid, created = process.rsplit(" ", 2)
    with suppress(psutil.Error):
        found = psutil.Process(int(pid))
        same = abs(found.create_time() - float(created)) < CLOCK_CORRECTION_SECONDS
        return same and found.status() != psutil.STATUS_ZOMBIE
    return False


def _git_tags() -> dict[str, str]:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "git.dirty": str(bool(git("status", "--porcelain"))).lower()}
    except (OSError, subprocess.CalledProcessError):
        return {}
