"""The reproducibility checks on a project that was really built, and on copies of it in which something is wrong."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from junitparser import JUnitXml
from ruamel.yaml import YAML

from checks import __main__ as main
from checks import verify
from checks.clone import Clone
from checks.comparison import DRIFT, IDENTICAL
from checks.double_build import unlike_outputs, unlike_runs
from checks.environment import check_environments
from checks.lock import stale_stages
from pipeline.common.errors import PipelineError


@pytest.fixture
def fresh(built, tmp_path) -> Clone:
    """A fresh clone: what is in git, without data, results and runs."""
    return clone_of(built, tmp_path)


def clone_of(project: Clone, folder: Path) -> Clone:
    subprocess.run(["git", "clone", "--quiet", str(project.root), str(folder / "fresh")], check=True)
    return Clone(folder / "fresh")


@pytest.fixture
def copy(built, tmp_path) -> Clone:
    """A copy with data, results and runs."""
    return built.copy(tmp_path / "copy")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def change_lock(root: Path, output: str, **fields) -> None:
    yaml = YAML()
    lock = yaml.load(root / "dvc.lock")
    [entry] = [entry for stage in lock["stages"].values() for entry in stage["outs"] if entry["path"] == output]
    entry.update(fields)
    yaml.dump(lock, root / "dvc.lock")


def change_table(root: Path, name: str, change) -> None:
    table = pd.read_csv(root / "reports/notebook" / name)
    change(table).to_csv(root / "reports/notebook" / name, index=False)


def test_nothing_is_stale_in_what_was_just_built(built, fresh):
    assert stale_stages(built.root) == {}
    assert stale_stages(fresh.root) == {}


def test_a_changed_parameter_names_the_stages_that_use_it(fresh):
    fresh.change("trial", "learning_rate", to=0.01)
    stale = stale_stages(fresh.root)
    assert set(stale) == {"train@baseline", "train@batch_norm", "batch_size_grid@32", "batch_size_grid@64", "evaluate", "report"}
    assert stale["train@baseline"] == ["params.yaml: trial.learning_rate (0.001 → 0.01)"]


def test_changed_code_names_the_stages_that_run_it(fresh):
    edit(fresh.root / "pipeline/reporting/figures.py", '"""', '"""Now ')
    assert stale_stages(fresh.root) == {"report": ["pipeline/reporting (modified)"]}


def test_a_changed_report_is_stale(fresh):
    edit(fresh.root / "reports/notebook/metrics.json", '"n": 2', '"n": 3')
    assert stale_stages(fresh.root) == {"report": ["reports/notebook (modified)"]}


def test_a_report_of_which_a_file_is_gone_is_stale(fresh):
    (fresh.root / "reports/notebook/report.md").unlink()
    assert stale_stages(fresh.root) == {"report": ["reports/notebook (modified)"]}


def test_a_new_level_without_results_is_stale(fresh):
    fresh.change("studies", "batch_size_grid", "grid", "batch_size", to=[32, 64, 16])
    assert set(stale_stages(fresh.root)) == {"batch_size_grid@16", "report"}


@pytest.mark.parametrize("output", ["data/processed/train", "results/train/baseline", "results/batch_size_grid/32"])
def test_a_lock_of_which_one_stage_was_made_anew_and_the_next_was_not_is_stale(fresh, output):
    """As after `dvc repro train@baseline` alone, with other weights of the same size, seen where no data is."""
    change_lock(fresh.root, output, md5=f"{'0' * 32}.dir")
    assert any("not as the stage that makes it left it" in moved for names in stale_stages(fresh.root).values() for moved in names)


def test_a_missing_lock_is_named(fresh):
    (fresh.root / "dvc.lock").unlink()
    with pytest.raises(PipelineError, match=r"dvc\.lock: not found; run `make repro`"):
        stale_stages(fresh.root)


def test_environments_are_checked_against_the_lock(fresh):
    check_environments(fresh.root)
    edit(fresh.root / "reports/environment.json", '"threads_per_trial": "1"', '"threads_per_trial": "2"')
    with pytest.raises(PipelineError, match=r"reports/environment\.json: .*train/baseline.*run `make repro`"):
        check_environments(fresh.root)


def test_reports_are_what_their_tables_give(fresh):
    fresh.succeed("python", "-m", "pipeline.report", "--check")
    change_table(fresh.root, "history.csv", lambda table: table.assign(val_accuracy=table["val_accuracy"] + 0.001))
    edit(fresh.root / "reports/notebook/report.md", "#", "##")
    done = fresh.run("python", "-m", "pipeline.report", "--check")
    assert done.returncode == 1
    assert "metrics.json" in done.stderr
    assert "report.md" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.laboratory
def test_a_spot_check_finds_committed_trials_identical(copy):
    said = copy.succeed("python", "-m", "checks.spot_check", "--trials", "2", "--seed", "1")
    assert said.count(": identical (") == 2
    assert "bit for bit" in said
    assert said.splitlines()[-2:] == copy.succeed("python", "-m", "checks.spot_check", "--trials", "2", "--seed", "1").splitlines()[-2:]


def spoil_metric(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(val_loss=table["val_loss"] * (1 + 2**-40))


def swap_seeds(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(seed=1 - table["seed"])


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("history.csv", spoil_metric, "epoch 1, val_loss: committed"),
        ("history.csv", swap_seeds, "epoch 1, "),
        ("weights.csv", lambda table: table.assign(sha256="0" * 64), "weights differ"),
    ],
    ids=["metric", "seeds", "weights"],
)
def test_a_spot_check_finds_what_was_changed(copy, name, change, told):
    change_table(copy.root, name, change)
    done = copy.run("python", "-m", "checks.spot_check", "--trials", "1", "--seed", "1")
    assert done.returncode == 1
    assert told in done.stdout
    assert "`make spot-check TRIALS=1 SEED=1` repeats this" in done.stderr


@pytest.mark.parametrize("count", ["0", "7"])
def test_a_spot_check_of_more_trials_than_there_are_is_refused(copy, count):
    done = copy.run("python", "-m", "checks.spot_check", "--trials", count)
    assert done.returncode == 1
    assert "--trials: should be from 1 to 6" in done.stderr


def test_two_builds_of_the_same_have_the_same_outputs_and_runs(built, copy):
    assert unlike_outputs(built.root, copy.root) == []
    assert unlike_runs(built.root, copy.root) == []


@pytest.mark.laboratory
def test_a_build_in_another_order_of_the_images_is_found_out(built, copy):
    edit(copy.root / "pipeline/training/seeds.py", "seed_sequence(seed, ", "seed_sequence(seed + 1, ")
    copy.succeed("dvc", "repro", "--single-item", "train@baseline", TRIAL_LEDGER="off")  # as the double build: nothing is trained ahead
    assert unlike_outputs(built.root, copy.root) == ["output results/train/baseline"]
    assert unlike_runs(built.root, copy.root) == ["run baseline-b64-s0", "run baseline-b64-s1"]


def ask(monkeypatch, **checks) -> int:
    """What `make check` makes of these checks: how many it names as failed."""
    monkeypatch.setattr(sys, "argv", ["checks"])
    monkeypatch.setattr(main, "CHECKS", checks)
    try:
        main.main()
    except PipelineError as failed:
        return len(str(failed).removeprefix("failed: ").split(", "))
    return 0


def test_every_check_is_asked_whatever_becomes_of_the_others(monkeypatch, capsys):
    def fail() -> None:
        raise PipelineError("stale\nin two lines")

    def break_down() -> None:
        raise KeyError("made")

    assert ask(monkeypatch, first=fail, second=break_down, third=lambda: None) == 2
    assert re.sub(r"\d+\.\d s", "0.0 s", capsys.readouterr().out).splitlines() == [
        *("first", "  FAILED after 0.0 s: stale in two lines"),
        *("second", "  FAILED after 0.0 s: KeyError: 'made'"),
        *("third", "  passed after 0.0 s"),
    ]
    assert ask(monkeypatch, third=lambda: None) == 0


LOCK, CLAIMS_LOCK = (f"{lock} belongs to code, parameters and data" for lock in ("dvc.lock", "claims/dvc.lock"))
SPOILT = {
    "some": [
        ("reports/environment.json", "", ["the environments are those of dvc.lock"]),
        ("reports/claims/report.html", "</h1>", [CLAIMS_LOCK, "the claims' report is what its measurements give"]),
        ("README.md", "<!-- results", ["the README's results are those of the reports"]),
        ("benchmarks/results.json", '"notebook_whole_job": ', ["the figures of speed are those that were measured"]),
    ],
    "others": [
        ("reports/notebook/report.html", "</h1>", [LOCK, "reports are what their tables give"]),
        ("claims/dvc.lock", " md5: ", [CLAIMS_LOCK]),
        ("README.md", "<!-- verdicts", ["the README's verdicts are those of the claims' report"]),
        ("benchmarks/cluster.json", '"seconds": ', ["the figures of scaling are those that were measured"]),
        ("checks/cluster.json", '"times": ', ["the faults survived beyond one machine are those that were counted"]),
        ("checks/reliability.json", '"times": ', ["the reliability figures are those that were counted"]),
    ],
}


@pytest.mark.laboratory
@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT)
def test_make_check_names_what_is_spoilt_and_nothing_else(laboratory, tmp_path, spoilt):
    fresh = clone_of(laboratory, tmp_path)
    for path, after, _ in spoilt:
        text = (fresh.root / path).read_text()
        digit = next(index for index in range(text.index(after), len(text)) if text[index].isdigit())
        (fresh.root / path).write_text(f"{text[:digit]}{(int(text[digit]) + 1) % 10}{text[digit + 1 :]}")
    program = "from checks import __main__ as m; m.CHECKS.popitem(); m.run(m.main)"  # all but the double build
    done = fresh.run("python", "-c", program)
    lines = done.stdout.splitlines()
    failed = [name for name, outcome in itertools.pairwise(lines) if outcome.startswith("  FAILED")]
    assert set(failed) == {check for _, _, checks in spoilt for check in checks}
    assert done.returncode == 1


def rows_of(committed: Clone, rebuilt: Clone) -> dict[str, str]:
    _, rows = verify.compare_builds(committed.root, rebuilt.root)
    return {row.name: row.verdict for row in rows}


def test_verification_of_the_same_has_a_row_for_every_metric_trial_and_output(built, copy):
    rows = rows_of(built, copy)
    assert set(rows.values()) == {IDENTICAL}
    assert {"train.batch_norm.test.accuracy.mean", "trial train/baseline-b64-s1", "output results/evaluate", "output data/raw"} <= set(rows)


def test_verification_finds_a_changed_metric_weight_and_output(built, fresh):
    edit(fresh.root / "reports/notebook/metrics.json", '"n": 2', '"n": 3')
    change_table(fresh.root, "weights.csv", lambda table: table.assign(sha256=table["sha256"].where(table["seed"] == 0, "0" * 64)))
    edit(
        fresh.root / "dvc.lock",
        "path: results/evaluate\n      hash: md5\n      md5: ",
        "path: results/evaluate\n      hash: md5\n      md5: 0",
    )
    drifted = {name for name, verdict in rows_of(fresh, built).items() if verdict == DRIFT}
    assert {"trial train/baseline-b64-s1", "trial train/batch_norm-b64-s1", "output results/evaluate"} <= drifted
    assert len([name for name in drifted if name.endswith(".n")]) == 1
    assert not any(name.startswith("trial") and name.endswith("s0") for name in drifted)


def test_verification_names_trials_and_outputs_that_only_one_side_has(built, fresh):
    fresh.change("studies", "train", "seeds", to=[0])
    for name in ("history.csv", "weights.csv"):
        change_table(fresh.root, name, lambda table: table[(table["study"] != "train") | (table["seed"] == 0)])
    verdicts = rows_of(fresh, built)
    assert verdicts["trial train/baseline-b64-s1"] == verdicts["trial train/batch_norm-b64-s1"] == DRIFT
    assert verdicts["trial train/baseline-b64-s0"] == IDENTICAL


def test_verification_names_an_output_that_only_one_side_has(built, fresh):
    yaml = YAML()
    lock = yaml.load(fresh.root / "dvc.lock")
    lock["stages"]["evaluate"]["outs"] = [entry for entry in lock["stages"]["evaluate"]["outs"] if entry["path"] != "results/evaluate"]
    yaml.dump(lock, fresh.root / "dvc.lock")
    assert rows_of(fresh, built)["output results/evaluate"] == DRIFT
    assert rows_of(built, fresh)["output results/evaluate"] == DRIFT


def test_in_another_environment_numbers_are_compared_within_tolerances_and_rounded_files_are_not(built, fresh):
    edit(fresh.root / "reports/environment.json", '"cpu": "', '"cpu": "another ')
    change_table(fresh.root, "history.csv", spoil_metric)
    rule, rows = verify.compare_builds(fresh.root, built.root)
    assert "standard deviations between seeds" in rule
    assert "another " in rule
    verdicts = {row.name: row.verdict for row in rows}
    assert DRIFT not in verdicts.values()
    assert verdicts["trial train/baseline-b64-s0"] == "within tolerance"
    assert [name for name in verdicts if name.startswith("output")] == [name for name in verdicts if name.startswith("output data/")]
    change_table(fresh.root, "history.csv", lambda table: table.assign(val_loss=table["val_loss"] + 1))
    assert {name.split()[0] for name, verdict in rows_of(fresh, built).items() if verdict == DRIFT} == {"trial"}


def test_drift_fails_its_case_in_the_junit_report_and_comes_first_in_the_summary(tmp_path):
    rows = [verify.Row("a.mean", 1.0, 1.0, IDENTICAL), verify.Row("b.mean", 1.0, 1.5, DRIFT), verify.Row("output c", "x", "y", DRIFT)]
    verify.as_junit(rows).write(str(tmp_path / "junit.xml"))
    [suite] = JUnitXml.fromfile(str(tmp_path / "junit.xml"))
    assert [(case.classname, case.name, case.is_passed) for case in suite] == [
        ("metric", "a.mean", True),
        ("metric", "b.mean", False),
        ("output", "c", False),
    ]
    summary = verify.summarize("the rule", rows)
    assert "1 identical, 0 within tolerance, 2 drift" in summary
    assert "| b.mean | 1.0 | 1.5 | 0.5 | drift |" in summary.split("<details>")[0]
    assert "a.mean" not in summary.split("<details>")[0]
