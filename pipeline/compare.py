"""Compare the arms and levels of a study, as the ledger has them: mean and SD over seeds, and differences paired by seed."""

import argparse
import sys

import pandas as pd

from pipeline.common.command import run
from pipeline.tracking.names import LAST_METRICS
from pipeline.trials.key import code_fingerprint
from pipeline.trials.notebook import BASELINE


def main() -> None:
    """Print the comparison, or with --format write it as CSV or JSON to standard output."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.compare", description=__doc__)
    parser.add_argument("--study", default="train", help="a study that has run (default: %(default)s)")
    parser.add_argument("--metric", action="append", help=f"may be repeated (default: {', '.join(LAST_METRICS)})")
    parser.add_argument("--reference", help="arm to compare with (default: baseline, or the arm that was trained first)")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    arguments = parser.parse_args()
    from pipeline.tracking.comparison import compare, missing  # here, so that --help need not wait for MLflow
    from pipeline.tracking.ledger import Ledger

    with Ledger() as ledger:
        trials = ledger.finished_trials(arguments.study)
        if trials.empty:
            raise missing(arguments.study, ledger.newest_studies())
    metrics = arguments.metric or list(LAST_METRICS)
    table = compare(trials, arguments.study, metrics, code=code_fingerprint(), usual_reference=BASELINE, reference=arguments.reference)
    if arguments.format == "csv":
        table.to_csv(sys.stdout, index=False)
    elif arguments.format == "json":
        print(table.to_json(orient="records", indent=2, double_precision=15))
    else:
        _print(table, arguments.study)


def _print(table: pd.DataFrame, study: str) -> None:
    from rich.console import Console  # here, since only a table needs it
    from rich.table import Table

    shown = Table(title=f"study {study}: last epoch, mean ± SD over seeds; differences are paired, with their 95 % interval")
    for heading in ("cell", "metric", "mean ± SD", "n", "difference", "to"):
        shown.add_column(heading, justify="right" if heading in ("mean ± SD", "n", "difference") else "left")
    for row in table.to_dict("records"):
        spread = "" if pd.isna(row["sd"]) else f" ± {row['sd']:.4f}"
        mean = "–" if pd.isna(row["mean"]) else f"{row['mean']:.4f}{spread}"
        lost = f" ({row['diverged']} diverged)" if row["diverged"] else ""
        interval = "" if pd.isna(row["low_95"]) else f" [{row['low_95']:+.4f}, {row['high_95']:+.4f}]"
        difference = "" if pd.isna(row["difference"]) else f"{row['difference']:+.4f}{interval}"
        reference = "" if pd.isna(row["reference"]) else str(row["reference"])
        shown.add_row(str(row["cell"]), str(row["metric"]), mean, f"{row['n']}{lost}", difference, reference)
    Console(width=None if sys.stdout.isatty() else 200).print(shown)


if __name__ == "__main__":
    run(main)
