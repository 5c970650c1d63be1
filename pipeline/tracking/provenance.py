"""Who made a run: the user, the process, the DVC stage, the commit, the versions and the processor; and on which data set."""

import getpass
import json
import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.tracking.names import DVC_EXPERIMENT, DVC_STAGE, GIT_COMMIT, GIT_DIRTY, USER
from pipeline.training.environment import computing_environment

PROFILE = Path("data/processed/profile.json")
CLOCK_CORRECTION_SECONDS = 60  # a corrected clock moves the time at which a process is said to have begun


def stage_tags() -> dict[str, str]:
    """Return what every run of this process is tagged with: user, DVC stage, commit, versions and processor."""
    tags = {DVC_STAGE: os.environ.get("DVC_STAGE", ""), DVC_EXPERIMENT: os.environ.get("DVC_EXP_NAME", "")}
    with suppress(OSError, KeyError):  # in a container, a user may have no name
        tags[USER] = getpass.getuser()
    with suppress(OSError, subprocess.CalledProcessError):
        tags |= {GIT_COMMIT: _git("rev-parse", "HEAD"), GIT_DIRTY: str(bool(_git("status", "--porcelain"))).lower()}
    return {**{name: value for name, value in tags.items() if value}, **computing_environment()}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def read_dataset() -> dict[str, str]:
    """Return what the stage `preprocess` wrote of the data set: `name`, such as `cifar10`, `title`, `home` and `citation`."""
    found = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(PROFILE.read_text(encoding="utf-8"))["dataset"]
    return {"name": "images", "title": "a data set without a name", "home": "", "citation": "", **found}


def this_process() -> str:
    """Return a name for this process that no later process with the same number has."""
    process = psutil.Process()
    return f"{platform.node()} {process.pid} {process.create_time():.2f}"


def lives(process: str) -> bool:
    """Return whether the process of this host that `this_process` named so still runs."""
    _, pid, created = process.rsplit(" ", 2)
    with suppress(psutil.Error):
        found = psutil.Process(int(pid))
        same = abs(found.create_time() - float(created)) < CLOCK_CORRECTION_SECONDS
        return same and found.status() != psutil.STATUS_ZOMBIE
    return False
