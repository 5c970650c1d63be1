"""Check both parameter files as a whole, which no stage does: each reads its own sections only.

`make repro`, `make claims`, the hooks and CI begin with it.
"""

import argparse
import re
from pathlib import Path

from claims.parameters import check_claims
from claims.paths import CLAIMS_FILE
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.parameters import PARAMETERS_FILE, read_sections
from pipeline.images.parameters import DataParameters, SplitParameters
from pipeline.trials.parameters import Parameters, load_parameters


class ParametersFile(Parameters, extra="forbid"):
    """All of params.yaml, each section as its room declares it."""

    data: DataParameters
    split: SplitParameters


def main() -> None:
    """Check, and name each fault in a line of its own."""
    argparse.ArgumentParser(prog="python -m checks.parameters", description=__doc__).parse_args()
    check_parameters()
    print(f"{PARAMETERS_FILE} and {CLAIMS_FILE} are valid")


def check_parameters(root: Path = Path()) -> None:
    """Check params.yaml and claims/params.yaml: every key, section, arm, level, study and claim.

    Raises:
        PipelineError: Something is wrong. Each fault that can be told is in a line of its own, by key.
    """
    checks = {root / PARAMETERS_FILE: read_parameters, root / CLAIMS_FILE: check_claims}
    between = re.compile(f"; (?={'|'.join(re.escape(f'{path}: ') for path in checks)})")
    faults: dict[str, None] = {}  # as a set in order: the claims build on params.yaml, and name what is wrong there once more
    for path, check in checks.items():
        try:
            check(path)
        except PipelineError as error:
            faults |= dict.fromkeys(between.split(str(error)))
    if faults:
        raise PipelineError("\nerror: ".join(faults))


def read_parameters(path: Path = PARAMETERS_FILE) -> ParametersFile:
    """Read and check all of params.yaml, or raise a PipelineError that names every fault."""
    parameters = read_sections(ParametersFile, path)
    load_parameters(path)
    return parameters


if __name__ == "__main__":
    run(main)
