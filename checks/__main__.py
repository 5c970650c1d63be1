"""`make check`: are lock, reports and figures those of the committed code and measurements, and are two builds the same in every byte?

Needs neither the data nor the results; takes a few minutes.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from checks.double_build import check_two_builds
from checks.environment import check_environments
from checks.lock import CLAIMS_PIPELINE, MAIN_PIPELINE, PIPELINES, stale_stages
from checks.parameters import check_parameters
from pipeline.common.command import run
from pipeline.common.errors import PipelineError


def main() -> None:
    """Run every check, also after one has failed."""
    argparse.ArgumentParser(prog="python -m checks", description=__doc__).parse_args()
    failed = []
    for name, check in CHECKS.items():
        print(name, flush=True)
        began = time.perf_counter()
        try:
            check()
            outcome, fault = "passed", ""
        except Exception as error:
            unforeseen = "" if isinstance(error, PipelineError) else f"{type(error).__name__}: "
            outcome, fault = "FAILED", f": {unforeseen}{' '.join(str(error).split())}"
            failed.append(name)
        print(f"  {outcome} after {time.perf_counter() - began:.1f} s{fault}", flush=True)
    if failed:
        raise PipelineError(f"failed: {', '.join(failed)}")


def check_lock(pipeline: str) -> None:
    """Raise an error that names the stages of a pipeline file whose committed results are stale."""
    if stale := stale_stages(pipeline=pipeline):
        named = "; ".join(f"{stage}: {', '.join(moved)}" for stage, moved in stale.items())
        lock = Path(pipeline).with_suffix(".lock")
        raise PipelineError(f"{lock} is stale; run `{PIPELINES[pipeline]}` and commit what it writes ({named})")


def check_generated(*module: str) -> None:
    """Raise the error of a module that is run with `--check`."""
    done = subprocess.run([sys.executable, "-m", *module, "--check"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PipelineError([f"exit code {done.returncode}", *done.stderr.strip().splitlines()][-1].removeprefix("error: "))


CHECKS: dict[str, Callable[[], None]] = {
    "both parameter files are valid": check_parameters,
    "dvc.lock belongs to code, parameters and data": partial(check_lock, MAIN_PIPELINE),
    "claims/dvc.lock belongs to code, parameters and data": partial(check_lock, CLAIMS_PIPELINE),
    "the environments are those of dvc.lock": check_environments,
    "reports are what their tables give": partial(check_generated, "pipeline.report"),
    "the claims' report is what its measurements give": partial(check_generated, "claims.report"),
    "the README's verdicts are those of the claims' report": partial(check_generated, "claims.reporting.readme"),
    "the README's results are those of the reports": partial(check_generated, "pipeline.reporting.readme"),
    "the figures of speed are those that were measured": partial(check_generated, "benchmarks.report"),
    "the reliability figures are those that were counted": partial(check_generated, "checks.reliability"),
    "the faults survived beyond one machine are those that were counted": partial(
        check_generated, "checks.reliability", "--survey", "cluster"
    ),
    "the figures of scaling are those that were measured": partial(check_generated, "benchmarks.scaling"),
    "the whole pipeline, built twice, gives the same files and runs": check_two_builds,
}


if __name__ == "__main__":
    run(main)
