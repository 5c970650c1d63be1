"""DVC stage `report`: the verdict on each of the notebook's claims, and what lies behind it, under reports/claims."""

import argparse

from claims.paths import RESULTS
from claims.reporting.page import make_report
from claims.reporting.results import read_results
from pipeline.common.command import run
from pipeline.pages.generated import update_files


def main() -> None:
    """Read what was measured and judged, and write the report, or with --check only compare."""
    parser = argparse.ArgumentParser(prog="python -m claims.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the report is not what the results beside it give")
    check = parser.parse_args().check
    update_files(make_report(read_results()), RESULTS, "dvc repro --force claims/dvc.yaml:report", check=check)


if __name__ == "__main__":
    run(main)
