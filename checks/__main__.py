"""`make check`: are lock, reports and figures those of the committed code and measurements, and are two builds the same in every byte?

Needs neither the data nor the results; takes a few minutes.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from checks.double_build import build_twice
from checks.environment import check_environments
from checks.lock import CLAIMS, MAIN, PIPELINES, stale_stages
from pipeline.common.command import run
from pipeline.common.errors import PipelineError


def main() -> None:
    """Run every check and name each that fails."""
    argparse.ArgumentParser(prog="python -m checks", description=__doc__).parse_args()
    failed = [name for name, check in CHECKS.items() if not _passes(name, check)]
    if failed:
        raise PipelineError(f"failed: {', '.join(failed)}")


def _passes(name: str, check: Callable[[], None]) -> bool:
    try:
        check()
    except Exception as fault:  # whatever stops one check, the others are still asked
        unforeseen = "" if isinstance(fault, PipelineError) else f"{type(fault).__name__}: "
        print(f"FAILED  {name}: {unforeseen}{' '.join(str(fault).split())}", flush=True)
        return False
    print(f"passed  {name}", flush=True)
    return True


def _check_lock(pipeline: str) -> Callable[[], None]:
    def check() -> None:
        if stale := stale_stages(pipeline=pipeline):
            named = "; ".join(f"{stage}: {', '.join(moved)}" for stage, moved in stale.items())
            lock = pipeline.replace(".yaml", ".lock")
            raise PipelineError(f"{lock} is stale; run `{PIPELINES[pipeline]}` and commit what it writes ({named})")

    return check


def _check_generated(*module: str) -> Callable[[], None]:
    def check() -> None:
        done = subprocess.run([sys.executable, "-m", *module, "--check"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last_lines = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise PipelineError(last_lines[0].removeprefix("error: "))

    return check


def _check_double_build() -> None:
    with tempfile.TemporaryDirectory(prefix="double-build-") as folder:
        if unlike := build_twice(Path(folder)):
            raise PipelineError(f"two builds of the same differ in {', '.join(unlike)}")


CHECKS: dict[str, Callable[[], None]] = {
    "dvc.lock belongs to code, parameters and data": _check_lock(MAIN),
    "claims/dvc.lock belongs to code, parameters and data": _check_lock(CLAIMS),
    "the environments are those of dvc.lock": check_environments,
    "reports are what their tables give": _check_generated("pipeline.report"),
    "the claims' report is what its measurements give": _check_generated("claims.report"),
    "the README's verdicts are those of the claims' report": _check_generated("claims.reporting.readme"),
    "the README's results are those of the reports": _check_generated("pipeline.reporting.readme"),
    "the figures of speed are those that were measured": _check_generated("benchmarks.report"),
    "the README's reliability figures are those that were counted": _check_generated("checks.reliability"),
    "the faults survived beyond one machine are those that were counted": _check_generated("checks.reliability", "--survey", "cluster"),
    "the figures of scaling are those that were measured": _check_generated("benchmarks.scaling"),
    "the picture of the architecture is that of the pipeline files": _check_generated("checks.architecture"),
    "the whole pipeline, built twice, gives the same files and runs": _check_double_build,
}


if __name__ == "__main__":
    run(main)
