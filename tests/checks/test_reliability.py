"""The reliability figures come from what tests counted."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checks import reliability
from pipeline.common.errors import PipelineError
from tests.conftest import ROOT

FIGURES = json.loads((ROOT / "checks/reliability.json").read_text())
BEGIN, END = "<!-- reliability: made by make resilience -->", "<!-- end of reliability -->"
COUNTING = "def test_counts(record_property):\n    record_property({name!r}, {count})\n    assert not {failing}\n"


def run_tests(folder: Path, counts: dict[str, int], *, failing: bool = False) -> Path:
    """Let pytest itself write the report, of one test file for each figure."""
    for name, count in counts.items():
        (folder / f"test_{name}.py").write_text(COUNTING.format(name=name, count=count, failing=failing))
    (folder / "pytest.ini").write_text("[pytest]\n")
    subprocess.run([sys.executable, "-m", "pytest", "-q", "--junitxml=report.xml"], cwd=folder, capture_output=True, check=False)
    return folder / "report.xml"


@pytest.fixture
def counts() -> dict[str, int]:
    return {row["figure"]: index for index, row in enumerate(FIGURES)}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    for folder in ("checks", "docs"):
        (tmp_path / folder).mkdir()
    shutil.copyfile(ROOT / "checks/reliability.json", tmp_path / "checks/reliability.json")
    (tmp_path / "docs/reliability.md").write_text(f"Before.\n{BEGIN}\nold\n{END}\nAfter.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["reliability", *arguments])
    reliability.main()


def test_what_tests_counted_stands_in_the_readme(project, counts, monkeypatch):
    report = run_tests(project, counts)
    run(monkeypatch, str(report))
    text = (project / "docs/reliability.md").read_text()
    figures = json.loads((project / "checks/reliability.json").read_text())
    assert figures == [{**row, "times": counts[row["figure"]]} for row in FIGURES]
    for row in figures:
        assert f"| {row['what']} | {row['times']} |" in text
    assert text.startswith("Before.")
    assert "old" not in text
    run(monkeypatch, "--check")


def test_figures_that_differ_from_the_readmes_are_found(project, counts, monkeypatch):
    run(monkeypatch, str(run_tests(project, counts)))
    (project / "checks/reliability.json").write_text(json.dumps(FIGURES))
    with pytest.raises(PipelineError, match="run `make resilience`"):
        run(monkeypatch, "--check")


def test_nothing_is_taken_from_tests_that_failed(project, counts, monkeypatch):
    with pytest.raises(PipelineError, match=r"test_counts.* failed"):
        run(monkeypatch, str(run_tests(project, counts, failing=True)))
    assert json.loads((project / "checks/reliability.json").read_text()) == FIGURES


def test_where_a_test_was_skipped_the_figures_stay(project, counts, monkeypatch, capsys):
    (project / "test_skipped.py").write_text("import pytest\n\ndef test_skipped():\n    pytest.skip('no root')\n")
    run(monkeypatch, str(run_tests(project, counts)))
    assert "skipped here: test_skipped" in capsys.readouterr().out
    assert "old" in (project / "docs/reliability.md").read_text()


def test_a_figure_that_nothing_counted_is_named(project, counts, monkeypatch):
    del counts["connections_cut"]
    with pytest.raises(PipelineError, match="no test counted connections_cut"):
        run(monkeypatch, str(run_tests(project, counts)))
