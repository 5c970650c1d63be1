"""Put into the pages what tests survived and counted: `make resilience` into the README, `make test-cluster` into docs/scaling.md."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from junitparser import JUnitXml, Properties, TestCase

from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.pages.generated import README, update_page


class Survey(NamedTuple):
    """What the tests of a make target count, and where the sums go."""

    target: str
    figures: Path
    page: Path
    begin: str
    end: str
    meanings: dict[str, str]


RESILIENCE = Survey(
    "make resilience",
    Path("checks/reliability.json"),
    README,
    "<!-- reliability: made by make resilience -->",
    "<!-- end of reliability -->",
    {
        "kills_survived": "kills (SIGKILL) of the whole pipeline at random moments: "
        "run again, same bytes, nothing trained twice or left over",
        "workers_killed": "workers killed in mid-trial: the trial run again with the same bytes, or named, the others kept",
        "outages_survived": "outages of the tracking store (locked database, server gone): nothing lost",
        "full_disks_survived": "full disks while fetching, saving and logging: one clear line, nothing truncated taken for whole",
        "connections_cut": "downloads cut at random offsets: resumed",
        "bad_archives_refused": "harmful or wrong archives refused",
        "bad_parameters_refused": "wrong versions of params.yaml refused in one line, the key or the place named",
        "divergences_recorded": "diverging trainings recorded as such, and in no mean",
        "runs_lost": "runs or metrics lost",
    },
)
CLUSTER = Survey(
    "make test-cluster",
    Path("checks/cluster.json"),
    Path("docs/scaling.md"),
    "<!-- faults: made by make test-cluster -->",
    "<!-- end of faults -->",
    {
        "nodes_killed": "nodes of a Ray cluster killed (SIGKILL) while trials ran there: those trials run again elsewhere, the same bytes",
        "heads_killed": "heads killed, and with them the cluster: one clear line, what was finished kept",
        "ray_workers_killed": "workers on nodes killed: the trial run again, or after three times named, the others kept",
        "nodes_refused": "nodes that compute otherwise: named, and given no trial",
        "drivers_killed": "drivers killed: nothing left running on the nodes, the next one went on from the ledger",
        "drivers_cancelled": "drivers cancelled (Ctrl-C, SIGTERM): nothing left running, no run left open",
        "postgresql_killed": "PostgreSQL killed in mid-run and brought back: every trial finished, none left open",
        "pushes_broken_off": "pushes to DVC's remote broken off, storage or client killed: completed by the next, nothing damaged",
        "cluster_runs_lost": "finished trials lost",
    },
)
SURVEYS = {"resilience": RESILIENCE, "cluster": CLUSTER}


def main() -> None:
    """Read the tests' report and write figures and page, or with --check only compare the page with the figures."""
    parser = argparse.ArgumentParser(prog="python -m checks.reliability", description=__doc__)
    parser.add_argument("--survey", choices=SURVEYS, default="resilience", help="whose tests (default: %(default)s)")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("report", nargs="?", type=Path, help="JUnit XML that pytest wrote")
    choice.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page's figures are not the committed ones")
    arguments = parser.parse_args()
    survey = SURVEYS[arguments.survey]
    if not arguments.check:
        cases = [case for suite in JUnitXml.fromfile(str(arguments.report)) for case in suite]
        if skipped := [case.name for case in cases if case.is_skipped]:
            print(f"skipped here: {', '.join(skipped)}; so the figures in {survey.page} are left as they are")
            return
        with replacing(survey.figures) as temporary:
            temporary.write_text(json.dumps(count_figures(cases, survey), indent=2) + "\n", encoding="utf-8")
    try:
        figures = json.loads(survey.figures.read_text(encoding="utf-8"))
        rows = [f"| {meaning} | {int(figures[name])} |" for name, meaning in survey.meanings.items()]
    except FileNotFoundError:
        raise PipelineError(f"{survey.figures}: not found; run `{survey.target}`") from None
    except (ValueError, TypeError, KeyError):
        raise PipelineError(f"{survey.figures}: not as `{survey.target}` writes it; run that") from None
    table = "\n".join(["| what was done to it | times |", "|---|---:|", *rows])
    update_page(survey.begin, survey.end, table, check=arguments.check, page=survey.page, remedy=f"run `{survey.target}`")


def count_figures(cases: list[TestCase], survey: Survey) -> dict[str, int]:
    """Return the sums of what the tests counted.

    Raises:
        PipelineError: A test failed, or nothing was counted for a figure.
    """
    if failed := [case.name for case in cases if not case.is_passed]:
        raise PipelineError(f"{', '.join(failed)} failed; figures are only taken from tests that pass")
    noted = [(entry.name, entry.value) for case in cases for entry in case.child(Properties) or []]
    counted: Counter[str] = Counter()
    for name, value in noted:
        counted.update({name: int(value)} if name in survey.meanings else {})  # seconds and the like are for who reads the report
    if missing := [name for name in survey.meanings if name not in counted]:
        raise PipelineError(f"no test counted {', '.join(missing)}; run all of `{survey.target}`")
    return {name: counted[name] for name in survey.meanings}


if __name__ == "__main__":
    run(main)
