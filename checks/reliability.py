"""Put the figures of `make resilience` into the README: checks/reliability.json, from what its tests counted."""

import argparse
import json
from collections import Counter
from pathlib import Path

from junitparser import JUnitXml, Properties, TestCase

from pipeline.atomic import replacing
from pipeline.command import run
from pipeline.errors import PipelineError
from pipeline.readme import README, update_page

FIGURES = Path("checks/reliability.json")
BEGIN = "<!-- reliability: made by make resilience -->"
END = "<!-- end of reliability -->"
MEANINGS = {
    "kills_survived": "kills (SIGKILL) of the whole pipeline at random moments: run again, same bytes, nothing trained twice or left over",
    "workers_killed": "workers killed in mid-trial: the trial run again with the same bytes, or named, the others kept",
    "outages_survived": "outages of the tracking store (locked database, server gone): nothing lost",
    "full_disks_survived": "full disks while fetching, saving and logging: one clear line, nothing truncated taken for whole",
    "connections_cut": "downloads cut at random offsets: resumed",
    "bad_archives_refused": "harmful or wrong archives refused",
    "bad_parameters_refused": "wrong versions of params.yaml refused in one line, the key or the place named",
    "divergences_recorded": "diverging trainings recorded as such, and in no mean",
    "runs_lost": "runs or metrics lost",
}


def main() -> None:
    """Read the tests' report and write figures and README, or with --check only compare the README with the figures."""
    parser = argparse.ArgumentParser(prog="python -m checks.reliability", description=__doc__)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("report", nargs="?", type=Path, help="JUnit XML that pytest wrote")
    choice.add_argument("--check", action="store_true", help="write nothing; exit 1 when the README's figures are not the committed ones")
    arguments = parser.parse_args()
    if not arguments.check:
        cases = [case for suite in JUnitXml.fromfile(str(arguments.report)) for case in suite]
        if skipped := [case.name for case in cases if case.is_skipped]:
            print(f"skipped here: {', '.join(skipped)}; so the figures in {README} are left as they are")
            return
        with replacing(FIGURES) as temporary:
            temporary.write_text(json.dumps(count_figures(cases), indent=2) + "\n", encoding="utf-8")
    update_page(BEGIN, END, as_table(read_figures()), check=arguments.check, remedy="run `make resilience`")


def count_figures(cases: list[TestCase]) -> dict[str, int]:
    """Add up what the tests counted.

    Raises:
        PipelineError: a test failed, or nothing was counted for a figure.
    """
    if failed := [case.name for case in cases if not case.is_passed]:
        raise PipelineError(f"{', '.join(failed)} failed; figures are only taken from tests that pass")
    counted: Counter[str] = Counter()
    for case in cases:
        counted.update({entry.name: int(entry.value) for entry in case.child(Properties) or []})
    if missing := [name for name in MEANINGS if name not in counted]:
        raise PipelineError(f"no test counted {', '.join(missing)}; run all of `make resilience`")
    return {name: counted[name] for name in MEANINGS}


def read_figures() -> dict[str, int]:
    """Read the committed figures.

    Raises:
        PipelineError: they are missing, or not as `make resilience` writes them.
    """
    try:
        figures = json.loads(FIGURES.read_text(encoding="utf-8"))
        return {name: int(figures[name]) for name in MEANINGS}
    except FileNotFoundError:
        raise PipelineError(f"{FIGURES}: not found; run `make resilience`") from None
    except (ValueError, TypeError, KeyError):
        raise PipelineError(f"{FIGURES}: not as `make resilience` writes it; run that") from None


def as_table(figures: dict[str, int]) -> str:
    """Write the figures as a Markdown table."""
    return "\n".join(["| what was done to it | times |", "|---|---:|", *(f"| {MEANINGS[name]} | {figures[name]} |" for name in MEANINGS)])


if __name__ == "__main__":
    run(main)
