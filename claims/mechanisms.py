"""DVC stage `mechanisms`: what happens inside the networks with and without Batch Normalization while they train."""

import argparse

from claims.paths import CLAIMS_FILE, ENVIRONMENTS
from claims.probes.arms import probe_arms, read_arms
from claims.probes.parameters import MechanismsSection
from claims.probes.tables import MECHANISMS
from pipeline.common.command import run
from pipeline.common.files import replacing
from pipeline.common.parameters import read_sections
from pipeline.training.environment import write_environment
from pipeline.workers.lock import alone_with_trials


def main() -> None:
    """Train both arms once more, side by side, and write reports/claims/mechanisms/, a table for each probe, and the environment."""
    argparse.ArgumentParser(prog="python -m claims.mechanisms", description=__doc__).parse_args()
    mechanisms = read_sections(MechanismsSection, CLAIMS_FILE).mechanisms
    configs = read_arms(mechanisms.seed, epochs=mechanisms.epochs)
    with alone_with_trials():
        tables = probe_arms(configs, mechanisms)
    with replacing(MECHANISMS) as temporary:
        temporary.mkdir()
        for name, table in tables.items():
            table.to_csv(temporary / f"{name}.csv", index=False, float_format="%.6g")
    write_environment(ENVIRONMENTS / "mechanisms.json")


if __name__ == "__main__":
    run(main)
