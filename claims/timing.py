"""DVC stage `timing`: milliseconds of a training step and of an inference, with Batch Normalization and without.

It is the one stage of this laboratory whose output differs from run to run. It waits until no trial is being trained.
"""

import argparse

from claims.paths import CLAIMS_FILE, ENVIRONMENTS
from claims.probes.arms import read_arms, time_arms
from claims.probes.parameters import TimingSection
from claims.probes.tables import TIMING
from pipeline.common.command import run
from pipeline.common.files import replacing
from pipeline.common.parameters import read_sections
from pipeline.training.environment import write_environment
from pipeline.workers.lock import alone_with_trials


def main() -> None:
    """Write reports/claims/timing.csv, and the environment that it holds for."""
    argparse.ArgumentParser(prog="python -m claims.timing", description=__doc__).parse_args()
    timing, configs = read_sections(TimingSection, CLAIMS_FILE).timing, read_arms(seed=0)
    with alone_with_trials():
        table = time_arms(configs, timing)
    with replacing(TIMING) as temporary:
        table.to_csv(temporary, index=False)
    write_environment(ENVIRONMENTS / "timing.json")


if __name__ == "__main__":
    run(main)
