"""Where the committed results were made: reports/environment.json, gathered from what each stage noted beside its results."""

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
COMMITTED = Path("reports/environment.json")
CLAIMS = "claims/"  # begins the name of a claims' result


def main() -> None:
    """Gather what the stages noted, results that were made in the same environment together."""
    argparse.ArgumentParser(prog="python -m checks.environment", description=__doc__).parse_args()
    groups: list[dict[str, Any]] = []
    for made in _locked_md5(Path()):
        environment = json.loads((NOTED / f"{made}.json").read_text(encoding="utf-8"))
        same = [group["made"] for group in groups if group["environment"] == environment]
        if same:
            same[0].append(made)
        else:
            groups.append({"environment": environment, "made": [made]})
    with replacing(COMMITTED) as temporary:
        temporary.write_text(json.dumps(groups, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_environments(root: Path = Path()) -> dict[str, dict[str, str]]:
    """Read in which environment each result was made, such as `train/baseline` or, of the claims, `claims/core`.

    Raises:
        PipelineError: The file is missing or cannot be read.
    """
    try:
        groups = json.loads((root / COMMITTED).read_text(encoding="utf-8"))
        main = {str(made): dict(group["environment"]) for group in groups for made in group["made"]}
        noted = sorted((root / NOTED_BY_CLAIMS).glob("*.json"))
        return main | {f"{CLAIMS}{path.stem}": json.loads(path.read_text(encoding="utf-8")) for path in noted}
    except FileNotFoundError:
        raise PipelineError(f"{COMMITTED}: not found; run `make repro` to make it") from None
    except (ValueError, TypeError, KeyError):
        raise PipelineError(f"{COMMITTED}: not as `make repro` writes it; run that") from None


def check_environments(root: Path = Path()) -> None:
    """Compare the committed environments with what dvc.lock says of them.

    Raises:
        PipelineError: One is not the one that the stage noted; it is named.
    """
    committed = {
        made: as_text(environment).encode() for made, environment in read_environments(root).items() if not made.startswith(CLAIMS)
    }
    noted, locked = {made: hashlib.md5(text, usedforsecurity=False).hexdigest() for made, text in committed.items()}, _locked_md5(root)
    if unlike := sorted(made for made in noted.keys() | locked.keys() if noted.get(made) != locked.get(made)):
        raise PipelineError(f"{COMMITTED}: {', '.join(unlike)}: not the environment that dvc.lock knows of; run `make repro`")


def _locked_md5(root: Path) -> dict[str, str]:
    made = {Path(path): entry["md5"] for path, entry in sorted(outputs(read_lock(root)).items())}
    return {str(path.relative_to(NOTED).with_suffix("")): md5 for path, md5 in made.items() if path.is_relative_to(NOTED)}


if __name__ == "__main__":
    run(main)
