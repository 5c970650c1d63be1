"""Keep the README's table of verdicts equal to reports/claims/verdicts.json."""

import argparse

from claims.reporting.page import describe_verdicts, render_claims
from claims.reporting.results import read_results
from pipeline.common.command import run
from pipeline.pages.generated import update_page


def main() -> None:
    """Read the verdicts and write README.md, or with --check only compare."""
    parser = argparse.ArgumentParser(prog="python -m claims.reporting.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the verdicts in the README are not current")
    check = parser.parse_args().check
    block = render_claims("readme_verdicts.md", **describe_verdicts(read_results()), linked="reports/claims/report.md")
    update_page("verdicts", "python -m claims.reporting.readme", block, check=check)


if __name__ == "__main__":
    run(main)
