"""DVC stage `verdicts`: judge every claim by what was measured. Nothing is trained."""

import argparse

from claims.judging.parameters import EXACT, TIMED, read_claims
from claims.judging.verdicts import as_files, as_table, judge_claims
from claims.paths import RESULTS
from claims.probes.tables import read_mechanism, read_timing
from claims.studies.parameters import read_studies
from claims.studies.tables import read_study
from pipeline.common.command import run
from pipeline.common.files import replacing
from pipeline.tracking import names
from pipeline.tracking.ledger import Ledger


def main() -> None:
    """Judge every claim, write reports/claims/verdicts.json and .csv and effects.json, and log the verdicts to MLflow."""
    argparse.ArgumentParser(prog="python -m claims.verdicts", description=__doc__).parse_args()
    studies = read_studies()
    sections = read_claims(studies)
    measured = {name: read_study(name, "trials", ["diverged"]) for name in studies.declared}
    rows = judge_claims(sections, {**measured, TIMED: read_timing(), EXACT: read_mechanism("working_principle")})
    for name, text in as_files(studies.set, sections.significance, rows).items():
        with replacing(RESULTS / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with Ledger() as ledger:
        ledger.log_verdicts(as_table(rows), {names.EFFECT.format(row.id): row.mean for row in rows if row.mean is not None})
        ledger.tag_claims({name: claim.study for name, claim in sections.claims.items()})


if __name__ == "__main__":
    run(main)
