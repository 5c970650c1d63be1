"""DVC stage `study`: train every trial of a study of the claims, or read it back from MLflow."""

import argparse

from claims.paths import ENVIRONMENTS, STUDIES
from claims.studies.trials import run_study
from pipeline.common.command import run
from pipeline.common.files import replacing
from pipeline.training.environment import write_environment


def main() -> None:
    """Read the study's name and write reports/claims/studies/<study>/ and the environment."""
    parser = argparse.ArgumentParser(prog="python -m claims.study", description=__doc__)
    parser.add_argument("study", help="a study of claims/params.yaml")
    study = parser.parse_args().study
    for name, table in run_study(study).items():
        with replacing(STUDIES / study / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
    write_environment(ENVIRONMENTS / f"{study}.json")


if __name__ == "__main__":
    run(main)
