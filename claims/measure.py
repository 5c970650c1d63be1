"""DVC stage `measure`: from a study's histories to the raw measure of each of its claims, one row per trial."""

import argparse

from claims.judging.parameters import read_claims
from claims.judging.trials import measure_trials
from claims.paths import STUDIES
from claims.studies.parameters import check_declared, read_studies
from claims.studies.tables import read_histories, read_study
from pipeline.common.command import run
from pipeline.common.files import replacing


def main() -> None:
    """Read the study's name and write reports/claims/studies/<study>/trials.csv."""
    parser = argparse.ArgumentParser(prog="python -m claims.measure", description=__doc__)
    parser.add_argument("study", help="a study of claims/params.yaml")
    study, studies = parser.parse_args().study, read_studies()
    check_declared(studies, study)
    histories, weights = read_histories(studies, study), read_study(study, "weights", ["sha256"])
    table = measure_trials(studies, read_claims(studies).claims, study, histories, weights)
    with replacing(STUDIES / study / "trials.csv") as temporary:
        table.to_csv(temporary, index=False)


if __name__ == "__main__":
    run(main)
