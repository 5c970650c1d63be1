"""Stage `report`: answer the notebook part by part from what the earlier stages measured, under reports/notebook."""

import argparse
import json

from pipeline.common.command import run
from pipeline.pages.generated import REPORTS, check_files, write_files
from pipeline.reporting.facts import headline_metrics
from pipeline.reporting.page import make_report
from pipeline.reporting.tables import check_declared, read_committed, read_stage_outputs
from pipeline.trials.parameters import load_parameters


def main() -> None:
    """Read params.yaml and what the stages measured, and write the report. With --check, only compare."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help=f"write nothing; exit 1 if {REPORTS} is not what its own tables give")
    check = parser.parse_args().check
    parameters = load_parameters()
    if check:
        tables = read_committed()
        check_declared(tables, parameters)
        check_files(make_report(parameters, tables), REPORTS)
        return
    files = make_report(parameters, read_stage_outputs(parameters))
    write_files(files, REPORTS)

    from pipeline.tracking.ledger import Ledger  # here, since --check and bad input need no MLflow
    from pipeline.tracking.views import describe_experiment

    with Ledger() as ledger:
        ledger.log_report(REPORTS, headline_metrics(json.loads(files["metrics.json"])))
        describe_experiment(ledger)


if __name__ == "__main__":
    run(main)
