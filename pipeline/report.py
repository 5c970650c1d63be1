"""Stage `report`: answer the notebook part by part from what the earlier stages measured, under reports/notebook."""

import argparse
import json

from pipeline.common.command import run
from pipeline.pages.generated import REPORTS, update_files
from pipeline.reporting.page import make_report
from pipeline.reporting.tables import read_committed, read_stage_outputs
from pipeline.tracking import names
from pipeline.trials.notebook import TRAIN
from pipeline.trials.parameters import load_parameters


def main() -> None:
    """Read params.yaml and what the stages measured, and write the report. With --check, only compare."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help=f"write nothing; exit 1 if {REPORTS} is not what its own tables give")
    check = parser.parse_args().check
    parameters = load_parameters()
    files = make_report(parameters, read_committed(parameters) if check else read_stage_outputs(parameters))
    update_files(files, REPORTS, "dvc repro --force report", check=check)
    if check:
        return
    from pipeline.tracking.ledger import Ledger  # here, since --check and bad input need no MLflow
    from pipeline.tracking.views import describe_experiment

    means = {
        names.REPORTED.format(arm, name): views[view][metric]["mean"]
        for arm, views in json.loads(files["metrics.json"])[TRAIN].items()
        for name, view, metric in [("val_accuracy", "final", "val_accuracy"), ("test_accuracy", "test", "accuracy")]
        if metric in views.get(view, {})
    }
    with Ledger() as ledger:
        ledger.log_report(REPORTS, means)
        describe_experiment(ledger)


if __name__ == "__main__":
    run(main)
