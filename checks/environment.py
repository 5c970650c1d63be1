"""In which environment the committed results were made: reports/notebook/environment.json, from what each stage noted beside its results."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from checks.lock import outputs, read_lock
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.training.environment import as_text

NOTED = Path("results/environment")
NOTED_BY_CLAIMS = Path("reports/claims/environment")  # in git as the stages wrote them
COMMITTED = Path("reports/notebook/environment.json")


def main() -> None:
    """Gather what the stages noted."""
    argparse.ArgumentParser(prog="python -m checks.environment", description=__doc__).parse_args()
    groups: list[dict[str, Any]] = []
    for cell in _locked_md5():
        environment = json.loads((NOTED / f"{cell}.json").read_text(encoding="utf-8"))
        same = next((group for group in groups if group["environment"] == environment), None)
        if same is None:
            groups.append({"environment": environment, "made": [cell]})
        else:
            same["made"].append(cell)
    with replacing(COMMITTED) as temporary:
        temporary.write_text(json.dumps(groups, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_environments(root: Path = Path()) -> dict[str, dict[str, str]]:
    """Read in which environment each result was made, such as `train/baseline` or, of the claims, `claims/core`.

    Raises:
        PipelineError: the file is missing or cannot be read.
    """
    try:
        groups = json.loads((root / COMMITTED).read_text(encoding="utf-8"))
        main = {str(cell): dict(group["environment"]) for group in groups for cell in group["made"]}
        noted = sorted((root / NOTED_BY_CLAIMS).glob("*.json"))
        return main | {f"claims/{path.stem}": json.loads(path.read_text(encoding="utf-8")) for path in noted}
    except FileNotFoundError:
        raise PipelineError(f"{COMMITTED}: not found; run `make repro` to make it") from None
    except (ValueError, TypeError, KeyError):
        raise PipelineError(f"{COMMITTED}: not as `make repro` writes it; run that") from None


def check_environments(root: Path = Path()) -> None:
    """Compare the committed environments with what dvc.lock says of them.

    Raises:
        PipelineError: one is not the one that the stage noted; it is named.
    """
    noted = {cell: _md5(as_text(environment)) for cell, environment in read_environments(root).items() if not cell.startswith("claims/")}
    locked = _locked_md5(root)
    if unlike := sorted(cell for cell in noted.keys() | locked.keys() if noted.get(cell) != locked.get(cell)):
        raise PipelineError(f"{COMMITTED}: {', '.join(unlike)}: not the environment that dvc.lock knows of; run `make repro`")


def _locked_md5(root: Path = Path()) -> dict[str, str]:
    made = outputs(read_lock(root))
    paths = {path: Path(path).relative_to(NOTED).with_suffix("") for path in made if Path(path).is_relative_to(NOTED)}
    return {str(cell): made[path]["md5"] for path, cell in sorted(paths.items())}


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    run(main)
