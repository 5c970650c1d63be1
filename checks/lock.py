"""dvc.lock and claims/dvc.lock: what the committed results say they were made from, and whether that is what is committed."""

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

from pipeline.common.errors import PipelineError
from pipeline.common.parameters import flatten

MAIN, CLAIMS = "dvc.yaml", "claims/dvc.yaml"
PIPELINES = {MAIN: "make repro", CLAIMS: "make claims"}  # and what makes their results
INPUTS = Path("reports/notebook/inputs.csv")
KEPT_IN_GIT = ("reports/",)  # other outputs are in DVC's cache

Entry = dict[str, Any]  # of an output or a dependency: path, md5, size and, for a folder, nfiles


def read_lock(root: Path = Path(), pipeline: str = MAIN) -> dict[str, Entry]:
    """Read what the lock of a pipeline file holds of each stage that the file declares: DVC keeps entries of stages that are gone.

    Raises:
        PipelineError: there is none, or it is not one.
    """
    lock = Path(pipeline).with_suffix(".lock")
    try:
        stages: dict[str, Entry] = YAML(typ="safe").load((root / lock).read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError:
        raise PipelineError(f"{lock}: not found; run `{PIPELINES[pipeline]}` and commit what it writes") from None
    except (TypeError, KeyError, ValueError, YAMLError) as error:
        raise PipelineError(f"{lock}: not a DVC lock ({type(error).__name__}); take it back from git") from None
    declared = {_name_of(address) for address in _ask_dvc(root, "stage", "list", "--name-only", pipeline).split()}
    return {stage: entry for stage, entry in stages.items() if stage in declared}


def built_pipelines(root: Path = Path()) -> list[str]:
    """List the pipeline files that have results: the claims may not have been measured yet."""
    return [pipeline for pipeline in PIPELINES if (root / pipeline).with_suffix(".lock").exists()]


def _name_of(address: str) -> str:
    """Name of a stage in its pipeline file, from its address, as `claims/dvc.yaml:report`."""
    return address.rpartition(":")[2]


def outputs(stages: dict[str, Entry]) -> dict[str, Entry]:
    """Every stage's outputs, by path."""
    return {entry["path"]: entry for stage in stages.values() for entry in stage.get("outs", [])}


def stale_stages(root: Path = Path(), pipeline: str = MAIN) -> dict[str, list[str]]:
    """Name each stage of a pipeline file whose committed results are not of the committed code, parameters and data, with what has moved.

    Data and results need not be there: what the lock says of them is then compared with what it says elsewhere.
    """
    stages = read_lock(root, pipeline)
    answer: dict[str, list[Any]] = json.loads(_ask_dvc(root, "status", "--json", pipeline))
    status = {_name_of(address): changes for address, changes in answer.items()}
    made, read = outputs(read_lock(root)) | outputs(stages), _read_inputs(root)
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
    for dependency in (dependency for dependency in dependencies if not dependency["path"].startswith(KEPT_IN_GIT)):  # DVC looks at those
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
