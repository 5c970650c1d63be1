"""Where the committed results were made: reports/environment.json, gathered from what each stage noted beside its results."""

import argparse
import hashlib
import json
from pathlib import Path

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
    made_in: dict[str, list[str]] = {}
    for made in _noted_md5(Path()):
        made_in.setdefault((NOTED / f"{made}.json").read_text(encoding="utf-8"), []).append(made)
    groups = [{"environment": json.loads(environment), "made": made} for environment, made in made_in.items()]
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
        made: hashlib.md5(as_text(environment).encode(), usedforsecurity=False).hexdigest()
        for made, environment in read_environments(root).items()
        if not made.startswith(CLAIMS)
    }
    if unlike := sorted({made for made, _ in committed.items() ^ _noted_md5(root).items()}):
        raise PipelineError(f"{COMMITTED}: {', '.join(unlike)}: not the environment that dvc.lock knows of; run `make repro`")


def _noted_md5(root: Path) -> dict[str, str]:
    """Return what dvc.lock has as the MD5 of each environment that a stage noted, by the result's name."""
    made = {Path(path): entry["md5"] for path, entry in sorted(outputs(read_lock(root)).items())}
    return {str(path.relative_to(NOTED).with_suffix("")): md5 for path, md5 in made.items() if path.is_relative_to(NOTED)}


if __name__ == "__main__":
    run(main)
