"""dvc.lock: what the committed results say they were made from, and whether that is what is committed."""

import json
import subprocess
import sys
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import PipelineError
from pipeline.parameters import flatten

LOCK = Path("dvc.lock")
KEPT_IN_GIT = "reports/"  # other outputs are in DVC's cache

Entry = dict[str, Any]  # of an output or a dependency: path, md5, size and, for a folder, nfiles


def read_lock(root: Path = Path()) -> dict[str, Entry]:
    """Read what dvc.lock holds of each stage that dvc.yaml declares: DVC keeps entries of stages that are gone.

    Raises:
        PipelineError: there is none, or it is not one.
    """
    path = root / LOCK
    try:
        stages: dict[str, Entry] = YAML(typ="safe").load(path.read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError:
        raise PipelineError(f"{LOCK}: not found; run `make repro` and commit what it writes") from None
    except (TypeError, KeyError, ValueError, YAMLError) as error:
        raise PipelineError(f"{LOCK}: not a DVC lock ({type(error).__name__}); take it back from git") from None
    declared = _ask_dvc(root, "stage", "list", "--name-only").split()
    return {stage: entry for stage, entry in stages.items() if stage in declared}


def outputs(stages: dict[str, Entry]) -> dict[str, Entry]:
    """Every stage's outputs, by path."""
    return {entry["path"]: entry for stage in stages.values() for entry in stage.get("outs", [])}


def stale_stages(root: Path = Path()) -> dict[str, list[str]]:
    """Name each stage whose committed results are not of the committed code, parameters and data, with what has moved.

    Data and results need not be there: what `dvc.lock` says of them is then compared with what it says elsewhere.
    """
    stages = read_lock(root)
    status: dict[str, list[Any]] = json.loads(_ask_dvc(root, "status", "--json"))
    made = outputs(stages)
    moved = {stage: list(_moved(changes, stages.get(stage, {}).get("params", {}), made, root)) for stage, changes in status.items()}
    for stage, entry in stages.items():
        moved.setdefault(stage, []).extend(_unlike_outputs(entry.get("deps", []), made))
    return {stage: sorted(set(names)) for stage, names in moved.items() if names}


def _ask_dvc(root: Path, *command: str) -> str:
    # Asked of a process of its own, since DVC's Python interface is not meant for others.
    done = subprocess.run([sys.executable, "-m", "dvc", *command], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PipelineError(f"`dvc {' '.join(command)}` failed: {' '.join(done.stderr.split())}")
    return done.stdout


def _moved(changes: list[Any], locked: dict[str, Any], made: dict[str, Entry], root: Path) -> Iterator[str]:
    """List what DVC says has changed, but for data and results that are not there."""
    for change in changes:
        if isinstance(change, str):  # as "changed command"
            yield change
            continue
        for path, how in chain.from_iterable(paths.items() for paths in change.values()):
            if isinstance(how, dict):
                yield from _changed_parameters(path, how, locked.get(path, {}), root)
            elif not (how in ("deleted", "not in cache") and _is_made(path, made) and not (root / path).exists()):
                yield f"{path} ({how})"


def _changed_parameters(path: str, groups: Collection[str], locked: dict[str, Any], root: Path) -> Iterator[str]:
    """Name each single value that differs in the groups that DVC names."""
    before = dict(flatten(locked))
    present = dict(flatten(YAML(typ="safe").load((root / path).read_text(encoding="utf-8"))))
    for key in {**before, **present}:
        if f"{key}.".startswith(tuple(f"{group}." for group in groups)) and before.get(key) != present.get(key):
            yield f"{path}: {key} ({before.get(key)} → {present.get(key)})"


def _is_made(path: str, made: dict[str, Entry]) -> bool:
    """Whether a stage makes the path, or something in it, and DVC's cache keeps it (what git keeps must be there)."""
    return any(Path(output).is_relative_to(path) and not output.startswith(KEPT_IN_GIT) for output in made)


def _unlike_outputs(dependencies: list[Entry], made: dict[str, Entry]) -> list[str]:
    """List the dependencies on other stages' outputs that were not as those stages made them."""
    names = []
    for dependency in dependencies:
        parts = [entry for path, entry in made.items() if Path(path).is_relative_to(dependency["path"])]
        fields = ["md5"] if [part["path"] for part in parts] == [dependency["path"]] else ["size", "nfiles"]
        if parts and any(dependency.get(field) != _total(parts, field) for field in fields):
            names.append(f"{dependency['path']} (not as the stage that makes it left it)")
    return names


def _total(parts: list[Entry], field: str) -> object:
    return parts[0][field] if field == "md5" else sum(part.get(field, 1) for part in parts)
