"""Put into the pages what tests survived and counted: `make resilience` into docs/reliability.md, `make test-cluster` into docs/scaling.md.

checks/reliability.json and checks/cluster.json say what each figure means, by the name under which tests count it.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from junitparser import JUnitXml, Properties

from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.pages.generated import update_page


class Survey(NamedTuple):
    """The tests of a make target that count, and where the sums go."""

    target: str
    figures: Path
    page: Path
    block: str


SURVEYS = {
    "resilience": Survey("make resilience", Path("checks/reliability.json"), Path("docs/reliability.md"), "reliability"),
    "cluster": Survey("make test-cluster", Path("checks/cluster.json"), Path("docs/scaling.md"), "faults"),
}


def main() -> None:
    """Read the tests' report and write figures and page, or with --check only compare the page with the figures.

    If a test was skipped, the figures stay as they are.

    Raises:
        PipelineError: A test failed, nothing was counted for a figure, or with --check, the page is not current.
    """
    parser = argparse.ArgumentParser(prog="python -m checks.reliability", description=__doc__)
    parser.add_argument("--survey", choices=SURVEYS, default="resilience", help="whose tests (default: %(default)s)")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("report", nargs="?", type=Path, help="JUnit XML that pytest wrote")
    choice.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page's figures are not the committed ones")
    arguments = parser.parse_args()
    survey = SURVEYS[arguments.survey]
    try:
        figures = json.loads(survey.figures.read_text(encoding="utf-8"))
        names = {str(row["figure"]): str(row["what"]) for row in figures}
        times = {str(row["figure"]): int(row["times"]) for row in figures}
    except (ValueError, TypeError, KeyError):
        raise PipelineError(f"{survey.figures}: not as `{survey.target}` writes it; take it back from git and run that") from None
    if not arguments.check:
        cases = [case for suite in JUnitXml.fromfile(str(arguments.report)) for case in suite]
        if skipped := [case.name for case in cases if case.is_skipped]:
            print(f"skipped here: {', '.join(skipped)}; so the figures in {survey.page} are left as they are")
            return
        if failed := [case.name for case in cases if not case.is_passed]:
            raise PipelineError(f"{', '.join(failed)} failed; figures are only taken from tests that pass")
        times = {}
        for noted in (entry for case in cases for entry in case.child(Properties) or []):
            if noted.name in names:  # others are for who reads the tests' report
                times[noted.name] = times.get(noted.name, 0) + int(noted.value)
        if missing := [name for name in names if name not in times]:
            raise PipelineError(f"no test counted {', '.join(missing)}; run all of `{survey.target}`")
        figures = [{**row, "times": times[row["figure"]]} for row in figures]
        with replacing(survey.figures) as temporary:
            temporary.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    rows = [f"| {what} | {times[name]} |" for name, what in names.items()]
    table = "\n".join(["| what was done to it | times |", "|---|---:|", *rows])
    update_page(survey.block, survey.target, table, check=arguments.check, page=survey.page)


if __name__ == "__main__":
    run(main)
