"""Build everything again from scratch, in a temporary clone of what is committed, and compare it with what is committed.

Downloads the data, trains every trial, writes the report; the clone's cache and ledger begin empty. Writes .verify/summary.md
and .verify/junit.xml; exits 1 on drift.
"""

import argparse
import math
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from junitparser import Failure, JUnitXml, TestCase, TestSuite

from checks.clone import clone_commit
from checks.comparison import DRIFT, IDENTICAL, SPREADS, TRIAL, WITHIN, across_instruction_sets, history_tolerances, judge
from checks.environment import read_environments
from checks.lock import CLAIMS, MAIN, built_pipelines, outputs, read_lock
from checks.trials import CommittedTrial, Comparison, committed_claims, committed_trials, compare_trials, describe_rule
from claims.studies.parameters import CLAIMS_FILE, RESULTS, load_claims
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.common.tables import read_json
from pipeline.reporting.readme import METRICS
from pipeline.reporting.tables import read_committed
from pipeline.trials.parameters import load_parameters

OUTPUT = Path(".verify")
VERDICTS = RESULTS / "verdicts.json"
EFFECT = ("mean", "sd", "low_95", "high_95", "d_z", "n")
SAME_EVERYWHERE = ("data/",)  # outputs that no processor rounds
REFERENCE_TOLERANCE = 0.002  # the linear reference's solver stops somewhere within its own tolerance


@dataclass(frozen=True)
class Row:
    """One compared number or file."""

    name: str
    committed: object
    rebuilt: object
    verdict: str

    @property
    def difference(self) -> float | None:
        """Rebuilt minus committed; nothing for a file, or for a number that only one side has."""
        if isinstance(self.committed, (int, float)) and isinstance(self.rebuilt, (int, float)):
            return self.rebuilt - self.committed
        return None


def main() -> None:
    """Rebuild, compare and tell."""
    argparse.ArgumentParser(prog="python -m checks.verify", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        committed, rebuilt = Path(folder) / "committed", Path(folder) / "rebuilt"
        rebuild(committed, rebuilt)
        rule, rows = compare_builds(committed, rebuilt)
    with replacing(OUTPUT) as temporary:
        temporary.mkdir()
        (temporary / "summary.md").write_text(summarize(rule, rows), encoding="utf-8")
        as_junit(rows).write(str(temporary / "junit.xml"), pretty=True)
    verdicts = Counter(row.verdict for row in rows)
    print(f"{rule}\n{_count(verdicts)}; every row stands in {OUTPUT}/summary.md")
    if drifted := [row.name for row in rows if row.verdict == DRIFT]:
        raise PipelineError(f"drift in {', '.join(drifted[:10])}{' and others' if len(drifted) > 10 else ''}")


def rebuild(committed: Path, rebuilt: Path) -> None:
    """Clone what is committed twice, and build one of the clones anew.

    Raises:
        PipelineError: the build failed.
    """
    clone_commit(committed)
    clone = clone_commit(rebuilt)
    shutil.rmtree(rebuilt / "reports/notebook")
    clone.succeed("dvc", "freeze", f"{CLAIMS}:timing")  # what is measured in seconds never comes out the same
    done = subprocess.run(["dvc", "repro", "--force", MAIN, CLAIMS], cwd=rebuilt, env=clone.environment, check=False)
    if done.returncode != 0:
        raise PipelineError("the pipeline failed in a clean clone, as told above")


def compare_builds(committed: Path, rebuilt: Path) -> tuple[str, list[Row]]:
    """Compare metrics, trials and outputs; say by what rule, and give a row for each."""
    trials, one_sided = _compare_trials(committed, rebuilt)
    environment = sorted({name for trial in trials for name in trial.environment})
    rows = list(_compare_metrics(committed, rebuilt, exactly=not environment))
    rows += [Row(f"trial {trial.trial.name}", "", trial.first_drift, trial.verdict) for trial in trials]
    rows += one_sided
    rows += _compare_outputs(committed, rebuilt, exactly=not environment)
    return describe_rule(environment), rows


def _compare_trials(committed: Path, rebuilt: Path) -> tuple[list[Comparison], list[Row]]:
    """Compare the trials that both have; give a row of drift for each that only one has."""
    (tables, ours), (anew, theirs) = (_read_trials(root) for root in (committed, rebuilt))
    histories = dict(iter(anew.groupby(TRIAL)))
    both = [(trial, histories[tuple(trial.labels.values())], theirs[name].sha256) for name, trial in ours.items() if name in theirs]
    one_sided = [
        Row(f"trial {name}", "there" if name in ours else "missing", "there" if name in theirs else "missing", DRIFT)
        for name in sorted(ours.keys() ^ theirs.keys())
    ]
    tolerances = history_tolerances(tables, across_instruction_sets())
    return compare_trials(both, tables, read_environments(committed), tolerances), one_sided


def _read_trials(root: Path) -> tuple[pd.DataFrame, dict[str, CommittedTrial]]:
    """Give every epoch of every trial, those of the claims included, and the trials by name."""
    tables = read_committed(root / "reports/notebook")
    histories, trials = tables.histories, committed_trials(load_parameters(root / "params.yaml"), tables)
    if CLAIMS in built_pipelines(root):
        claims_histories, claims_trials = committed_claims(load_claims(root / CLAIMS_FILE), root)
        histories, trials = pd.concat([histories, claims_histories], ignore_index=True), trials + claims_trials
    return histories, {trial.name: trial for trial in trials}


def _read_metrics(root: Path) -> dict[str, Any]:
    """Give the figures of the report, and the effect of each claim that is not measured in seconds."""
    rows = read_json(root / VERDICTS, "claims/dvc.yaml:verdicts")["claims"] if CLAIMS in built_pipelines(root) else []
    effects = {row["id"]: {name: row[name] for name in EFFECT if row[name] is not None} for row in rows if row["kind"] != "timed"}
    return {**read_json(root / METRICS, "report"), "claims": effects}


def _compare_metrics(committed: Path, rebuilt: Path, *, exactly: bool) -> Iterator[Row]:
    ours, anew = (dict(_flatten(_read_metrics(root))) for root in (committed, rebuilt))
    for name in sorted(ours.keys() | anew.keys()):
        value, tolerance = ours.get(name, (math.nan, 0.0))
        rebuilt_value, _ = anew.get(name, (math.nan, 0.0))
        yield Row(name, value, rebuilt_value, judge(value, rebuilt_value, 0.0 if exactly else tolerance))


def _flatten(metrics: dict[str, Any], path: str = "", tolerance: float = 0.0) -> Iterator[tuple[str, tuple[float, float]]]:
    """Give each number by its dotted path, with how far it may be off where the bits differ."""
    for key, value in metrics.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from _flatten(value, name, REFERENCE_TOLERANCE if key == "references" else tolerance)
        else:
            yield name, (value, tolerance or _tolerance(key, metrics))


def _tolerance(statistic: str, of: dict[str, Any]) -> float:
    """How far apart two runs' statistics over `n` seeds may be: so many of their standard errors as single values of their spread."""
    sd, n = of.get("sd"), of.get("n", 0)
    if statistic in ("count", "n") or sd is None or n < 2:
        return 0.0
    if statistic == "d_z":  # its variance: Hedges & Olkin 1985, for one group
        return SPREADS * math.sqrt(1 / n + of["d_z"] ** 2 / (2 * n))
    return float(SPREADS * sd / math.sqrt(n)) if statistic == "mean" else float(SPREADS * sd)


def _compare_outputs(committed: Path, rebuilt: Path, *, exactly: bool) -> Iterator[Row]:
    """Compare the hashes of what stages wrote; in another environment, only of what no processor rounds."""
    ours, anew = (
        {path: entry for pipeline in built_pipelines(root) for path, entry in outputs(read_lock(root, pipeline)).items()}
        for root in (committed, rebuilt)
    )
    for path in sorted(ours.keys() | anew.keys()):
        if exactly or path.startswith(SAME_EVERYWHERE):
            before, after = (side[path]["md5"] if path in side else "missing" for side in (ours, anew))
            yield Row(f"output {path}", before, after, IDENTICAL if before == after else DRIFT)


def summarize(rule: str, rows: list[Row]) -> str:
    """Write the summary as Markdown: what is not identical first, and every row below."""
    verdicts = Counter(row.verdict for row in rows)
    unlike = [row for row in rows if row.verdict != IDENTICAL]
    parts = [f"# Verification: {'drift' if verdicts[DRIFT] else 'no drift'}", rule, f"{_count(verdicts)}."]
    if unlike:
        parts.append(_table(unlike))
    return "\n\n".join([*parts, f"<details><summary>every row</summary>\n\n{_table(rows)}\n\n</details>"]) + "\n"


def as_junit(rows: list[Row]) -> JUnitXml:
    """Give each row as a test case that fails on drift."""
    suite = TestSuite("verify")
    for row in rows:
        group, _, name = row.name.partition(" ") if " " in row.name else ("metric", "", row.name)
        case = TestCase(name, classname=group)
        if row.verdict == DRIFT:
            case.result = [Failure(f"committed {row.committed}, rebuilt {row.rebuilt}")]
        suite.add_testcase(case)
    report = JUnitXml("verify")
    report.add_testsuite(suite)
    return report


def _count(verdicts: Counter[str]) -> str:
    return ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in (IDENTICAL, WITHIN, DRIFT))


def _table(rows: list[Row]) -> str:
    lines = ["| what | committed | rebuilt | difference | verdict |", "|---|---:|---:|---:|---|"]
    for row in rows:
        difference = "" if row.difference is None else f"{row.difference:.3g}"
        lines.append(f"| {row.name} | {row.committed} | {row.rebuilt} | {difference} | {row.verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
