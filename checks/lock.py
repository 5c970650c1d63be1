"""dvc.lock: what the committed results say they were made from, and whether that is what is committed."""

import csv
import hashlib
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
INPUTS = Path("reports/inputs.csv")
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
    made, read = outputs(stages), _read_inputs(root)
    moved = {stage: list(_moved(changes, stages.get(stage, {}).get("params", {}), made, root)) for stage, changes in status.items()}
    for stage, entry in stages.items():
        moved.setdefault(stage, []).extend(_unlike_outputs(entry.get("deps", []), made, read))
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


def _unlike_outputs(dependencies: list[Entry], made: dict[str, Entry], read: dict[str, str]) -> list[str]:
    """List the dependencies on other stages' outputs that were not as those stages made them.

    Of a folder in which several stages have an output, the lock holds one MD5 over all, so what the report `read` there decides.
    """
    names = []
    for dependency in dependencies:
        path, md5 = dependency["path"], dependency["md5"]
        parts = {part: entry["md5"] for part, entry in made.items() if Path(part).is_relative_to(path)}
        found = {part: _md5_of_folder(read, part) for part in (path, *parts)} if path not in parts else {path: md5}
        if parts and found != {path: md5, **parts}:
            names.append(f"{path} (not as the stage that makes it left it)")
    return names


def _md5_of_folder(files: dict[str, str], folder: str) -> str:
    """MD5 of a folder as DVC has it, from the MD5 of each file by path: over a JSON list of its files."""
    inside = {Path(path).relative_to(folder).as_posix(): md5 for path, md5 in files.items() if Path(path).is_relative_to(folder)}
    listed = json.dumps([{"md5": md5, "relpath": name} for name, md5 in sorted(inside.items())], sort_keys=True)
    return f"{hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest()}.dir"


def _read_inputs(root: Path) -> dict[str, str]:
    """What the report was made from: the MD5 of each file, by path; nothing if that is gone, which DVC tells."""
    try:
        with (root / INPUTS).open(encoding="utf-8", newline="") as table:
            return {row["path"]: row["md5"] for row in csv.DictReader(table)}
    except FileNotFoundError:
        return {}
    except (KeyError, ValueError, csv.Error):
        raise PipelineError(f"{INPUTS}: not as the report writes it; run `dvc repro --force report`") from None
