"""dvc.lock and claims/dvc.lock: what the committed results say they were made from, and whether that is what is committed."""

import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.common.errors import PipelineError
from pipeline.common.parameters import flatten

MAIN_PIPELINE, CLAIMS_PIPELINE = "dvc.yaml", "claims/dvc.yaml"
PIPELINES = {MAIN_PIPELINE: "make repro", CLAIMS_PIPELINE: "make claims"}  # and what makes their results
INPUTS = Path("reports/notebook/inputs.csv")
KEPT_IN_CACHE = ("data/", "results/")  # other outputs are in git

Entry = dict[str, Any]  # of an output or a dependency: path, md5, size and, for a folder, nfiles


def read_lock(root: Path = Path(), pipeline: str = MAIN_PIPELINE) -> dict[str, Entry]:
    """Read what the lock of a pipeline file holds of each stage that the file declares. DVC keeps entries of stages that are gone.

    Raises:
        PipelineError: There is none, or it is not one.
    """
    lock = Path(pipeline).with_suffix(".lock")
    try:
        stages: dict[str, Entry] = YAML(typ="safe").load((root / lock).read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError:
        raise PipelineError(f"{lock}: not found; run `{PIPELINES[pipeline]}` and commit what it writes") from None
    except (TypeError, KeyError, ValueError, YAMLError) as error:
        raise PipelineError(f"{lock}: not a DVC lock ({type(error).__name__}); take it back from git") from None
    declared = {address.rpartition(":")[2] for address in ask_dvc(root, "stage", "list", "--name-only", pipeline).split()}
    return {stage: entry for stage, entry in stages.items() if stage in declared}


def built_pipelines(root: Path = Path()) -> list[str]:
    """List the pipeline files that have results. The claims may not have been measured yet."""
    return [pipeline for pipeline in PIPELINES if (root / pipeline).with_suffix(".lock").exists()]


def outputs(stages: dict[str, Entry]) -> dict[str, Entry]:
    """Return every stage's outputs, by path."""
    return {entry["path"]: entry for stage in stages.values() for entry in stage.get("outs", [])}


def locked_md5(root: Path) -> dict[str, str]:
    """Return the MD5 of every output of the pipelines that have results, by path."""
    return {path: entry["md5"] for pipeline in built_pipelines(root) for path, entry in outputs(read_lock(root, pipeline)).items()}


def ask_dvc(root: Path, *command: str) -> str:
    """Return what DVC prints, in a process of its own, since its Python interface is not meant for others."""
    done = subprocess.run([sys.executable, "-m", "dvc", *command], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PipelineError(f"`dvc {' '.join(command)}` failed: {' '.join(done.stderr.split())}")
    return done.stdout


def stale_stages(root: Path = Path(), pipeline: str = MAIN_PIPELINE) -> dict[str, list[str]]:
    """Name each stage of a pipeline file whose committed results are not of the committed code, parameters and data, with what has moved.

    Data and results need not be there: what the lock says of them is then compared with what it says elsewhere.
    """
    stages = read_lock(root, pipeline)
    moved: dict[str, set[str]] = defaultdict(set)
    for address, changes in json.loads(ask_dvc(root, "status", "--json", pipeline)).items():
        stage = address.rpartition(":")[2]
        moved[stage] |= {change for change in changes if isinstance(change, str)}  # as "changed command"
        for path, how in chain.from_iterable(paths.items() for change in changes if isinstance(change, dict) for paths in change.values()):
            if isinstance(how, dict):  # groups of parameters: each single value that differs is named
                before = dict(flatten(stages.get(stage, {}).get("params", {}).get(path, {})))
                now = dict(flatten(YAML(typ="safe").load((root / path).read_text(encoding="utf-8"))))
                of_groups = [key for key in before | now if f"{key}.".startswith(tuple(f"{group}." for group in how))]
                unlike = [key for key in of_groups if before.get(key) != now.get(key)]
                moved[stage] |= {f"{path}: {key} ({before.get(key)} → {now.get(key)})" for key in unlike}
            elif not (how in ("deleted", "not in cache") and path.startswith(KEPT_IN_CACHE) and not (root / path).exists()):
                moved[stage].add(f"{path} ({how})")
    # What the report was made from; if that table is gone, DVC has said so.
    inputs = pd.read_csv(root / INPUTS) if (root / INPUTS).exists() else pd.DataFrame(columns=["path", "md5"])
    made, read = outputs(read_lock(root)) | outputs(stages), dict(zip(inputs["path"], inputs["md5"], strict=True))
    for stage, entry in stages.items():
        for dependency in entry.get("deps", []):
            path, md5 = dependency["path"], dependency["md5"]
            parts = {part: output["md5"] for part, output in made.items() if Path(part).is_relative_to(path)}
            # Of a folder in which several stages have an output, the lock holds one MD5 over all: what the report read there decides.
            found = {path: md5} if path in parts else {part: _md5_of_folder(read, part) for part in (path, *parts)}
            if parts and path.startswith(KEPT_IN_CACHE) and found != {path: md5, **parts}:
                moved[stage].add(f"{path} (not as the stage that makes it left it)")
    return {stage: sorted(names) for stage, names in moved.items() if names}


def _md5_of_folder(files: dict[str, str], folder: str) -> str:
    """Return the MD5 of a folder as DVC has it, from the MD5 of each file by path: over a JSON list of its files."""
    inside = {Path(path).relative_to(folder).as_posix(): md5 for path, md5 in files.items() if Path(path).is_relative_to(folder)}
    listed = json.dumps([{"md5": md5, "relpath": name} for name, md5 in sorted(inside.items())], sort_keys=True)
    return f"{hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest()}.dir"
