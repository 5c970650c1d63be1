"""Build everything again from scratch, in a temporary clone of what is committed, and compare it with what is committed.

Downloads the data, trains every trial, writes the report; the clone's cache and ledger begin empty. Writes .verify/summary.md
and .verify/junit.xml; exits 1 on drift.
"""

import argparse
import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from junitparser import Failure, JUnitXml, TestCase, TestSuite

from checks.clone import clone_commit
from checks.comparison import DRIFT, IDENTICAL, SPREADS, TRIAL, WITHIN, compare_trials, describe_rule, judge, read_trials
from checks.lock import CLAIMS_PIPELINE, PIPELINES, built_pipelines, locked_md5
from claims.paths import RESULTS
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.common.tables import read_json
from pipeline.reporting.readme import METRICS

OUTPUT = Path(".verify")
VERDICTS = RESULTS / "verdicts.json"
EFFECT = ("mean", "sd", "low_95", "high_95", "d_z", "n")
SAME_EVERYWHERE = ("data/",)  # outputs that no processor rounds
REFERENCE_TOLERANCE = 0.002  # the linear reference's solver stops somewhere within its own tolerance


class Row(NamedTuple):
    """One compared number or file."""

    name: str
    committed: object
    rebuilt: object
    verdict: str


def main() -> None:
    """Rebuild, compare, and write a summary."""
    argparse.ArgumentParser(prog="python -m checks.verify", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        committed, rebuilt = Path(folder) / "committed", Path(folder) / "rebuilt"
        clone_commit(committed)
        clone = clone_commit(rebuilt)
        shutil.rmtree(rebuilt / "reports/notebook")
        clone.succeed("dvc", "freeze", f"{CLAIMS_PIPELINE}:timing")  # what is measured in seconds never comes out the same
        done = subprocess.run(["dvc", "repro", "--force", *PIPELINES], cwd=rebuilt, env=clone.environment, check=False)
        if done.returncode != 0:
            raise PipelineError("the pipeline failed in a clean clone; its error stands above")
        rule, rows = compare_builds(committed, rebuilt)
    with replacing(OUTPUT) as temporary:
        temporary.mkdir()
        (temporary / "summary.md").write_text(summarize(rule, rows), encoding="utf-8")
        as_junit(rows).write(str(temporary / "junit.xml"), pretty=True)
    print(f"{rule}\n{count_verdicts(rows)}; every row stands in {OUTPUT}/summary.md")
    if drifted := [row.name for row in rows if row.verdict == DRIFT]:
        raise PipelineError(f"drift in {', '.join(drifted[:10])}{' and others' if len(drifted) > 10 else ''}")


def compare_builds(committed: Path, rebuilt: Path) -> tuple[str, list[Row]]:
    """Compare metrics, trials and outputs. Return the rule by which they were compared, and a row for each."""
    (tables, ours), (anew, theirs) = (read_trials(root) for root in (committed, rebuilt))
    histories, weights = dict(iter(anew.groupby(TRIAL))), {trial.name: trial.sha256 for trial in theirs}
    both = [(trial, histories[tuple(trial.labels.values())], weights[trial.name]) for trial in ours if trial.name in weights]
    comparisons = compare_trials(both, tables, committed)
    exactly = not any(comparison.environment for comparison in comparisons)
    rows = []

    metrics = [dict(_flatten(_read_metrics(root))) for root in (committed, rebuilt)]
    for name in sorted(metrics[0].keys() | metrics[1].keys()):
        (value, tolerance), (rebuilt_value, _) = (side.get(name, (math.nan, 0.0)) for side in metrics)
        rows.append(Row(name, value, rebuilt_value, judge(value, rebuilt_value, 0.0 if exactly else tolerance)))

    rows += [Row(f"trial {comparison.trial.name}", "", comparison.first_drift, comparison.verdict) for comparison in comparisons]
    for name in sorted({trial.name for trial in ours} ^ weights.keys()):
        rows.append(Row(f"trial {name}", *(("missing", "there") if name in weights else ("there", "missing")), DRIFT))

    before, after = locked_md5(committed), locked_md5(rebuilt)
    for path in sorted(before.keys() | after.keys()):
        if exactly or path.startswith(SAME_EVERYWHERE):
            verdict = IDENTICAL if before.get(path) == after.get(path) else DRIFT
            rows.append(Row(f"output {path}", before.get(path, "missing"), after.get(path, "missing"), verdict))
    return describe_rule(comparisons), rows


def _read_metrics(root: Path) -> dict[str, Any]:
    """Return the figures of the report, and the effect of each claim that is not measured in seconds."""
    rows = read_json(root / VERDICTS, f"{CLAIMS_PIPELINE}:verdicts")["claims"] if CLAIMS_PIPELINE in built_pipelines(root) else []
    effects = {row["id"]: {name: row[name] for name in EFFECT if row[name] is not None} for row in rows if row["kind"] != "timed"}
    return {**read_json(root / METRICS, "report"), "claims": effects}


def _flatten(metrics: dict[str, Any], path: str = "", tolerance: float = 0.0) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield each number by its dotted path, with how far it may be off where the bits differ.

    Two runs' statistics over `n` seeds may be as many of their standard errors apart as single values of their spread. The
    variance of d_z is that of Hedges & Olkin (1985) for one group.
    """
    sd, n = metrics.get("sd"), metrics.get("n", 0)
    for key, value in metrics.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from _flatten(value, name, REFERENCE_TOLERANCE if key == "references" else tolerance)
        elif tolerance or key in ("count", "n") or sd is None or n < 2:
            yield name, (value, tolerance)
        else:
            error = math.sqrt(1 / n + metrics["d_z"] ** 2 / (2 * n)) if key == "d_z" else sd / math.sqrt(n) if key == "mean" else sd
            yield name, (value, SPREADS * error)


def summarize(rule: str, rows: list[Row]) -> str:
    """Return the summary in Markdown: what is not identical first, and every row below."""
    unlike = [row for row in rows if row.verdict != IDENTICAL]
    drift = "drift" if any(row.verdict == DRIFT for row in rows) else "no drift"
    parts = [f"# Verification: {drift}", rule, f"{count_verdicts(rows)}.", *([_table(unlike)] if unlike else [])]
    return "\n\n".join([*parts, f"<details><summary>every row</summary>\n\n{_table(rows)}\n\n</details>"]) + "\n"


def count_verdicts(rows: list[Row]) -> str:
    """Return how many rows have each verdict, in words."""
    return ", ".join(f"{sum(row.verdict == verdict for row in rows)} {verdict}" for verdict in (IDENTICAL, WITHIN, DRIFT))


def _table(rows: list[Row]) -> str:
    lines = ["| what | committed | rebuilt | difference | verdict |", "|---|---:|---:|---:|---|"]
    for name, committed, rebuilt, verdict in rows:
        numbers = isinstance(committed, int | float) and isinstance(rebuilt, int | float)
        difference = f"{rebuilt - committed:.3g}" if numbers else ""  # type: ignore[operator]
        lines.append(f"| {name} | {committed} | {rebuilt} | {difference} | {verdict} |")
    return "\n".join(lines)


def as_junit(rows: list[Row]) -> JUnitXml:
    """Return a report in which each row is a test case that fails on drift."""
    suite, report = TestSuite("verify"), JUnitXml("verify")
    for row in rows:
        group, name = row.name.split(" ", 1) if " " in row.name else ("metric", row.name)
        case = TestCase(name, classname=group)
        if row.verdict == DRIFT:
            case.result = [Failure(f"committed {row.committed}, rebuilt {row.rebuilt}")]
        suite.add_testcase(case)
    report.add_testsuite(suite)
    return report


if __name__ == "__main__":
    run(main)
