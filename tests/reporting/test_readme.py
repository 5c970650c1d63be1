import json
import sys

import pytest

from pipeline.common.errors import PipelineError
from pipeline.pages.wording import SPACE
from pipeline.reporting import readme
from pipeline.reporting.facts import summarize_results
from pipeline.reporting.tables import read_stage_outputs
from pipeline.trials.parameters import load_parameters
from tests.synthetic_results import write_results

BEGIN, END = "<!-- results: made by python -m pipeline.reporting.readme -->", "<!-- end of results -->"
TEXT = f"# Title\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n"


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_results(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        parameters = load_parameters()
        return summarize_results(read_stage_outputs(parameters), parameters)


@pytest.fixture
def project(tmp_path, monkeypatch, metrics):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports/notebook").mkdir(parents=True)
    (tmp_path / "reports/notebook/metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "README.md").write_text(TEXT)
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["readme", *arguments])
    readme.main()


def test_results_stand_between_the_markers_and_nothing_else_changes(project, monkeypatch, metrics):
    run(monkeypatch)
    text = (project / "README.md").read_text().replace(SPACE, " ")
    before, _, rest = text.partition(BEGIN)
    block, _, after = rest.partition(END)
    validation = metrics["train"]["batch_norm"]["final"]["val_accuracy"]
    assert (before, after) == ("# Title\n\nBefore.\n\n", "\n\nAfter.\n")
    assert f"{100 * validation['mean']:.1f} ± {100 * validation['sd']:.1f} %" in block
    assert "](reports/notebook/figures/paired_differences.svg)" in block
    assert "n = 5" in block
    assert "old" not in block


def test_running_again_changes_nothing(project, monkeypatch):
    run(monkeypatch)
    first = (project / "README.md").read_bytes()
    run(monkeypatch)
    assert (project / "README.md").read_bytes() == first
    run(monkeypatch, "--check")


def test_check_tells_and_changes_nothing(project, monkeypatch):
    with pytest.raises(PipelineError, match=r"^README\.md: .*run `python -m pipeline\.reporting\.readme`$"):
        run(monkeypatch, "--check")
    assert (project / "README.md").read_text() == TEXT


@pytest.mark.parametrize("text", ["no markers", BEGIN, f"{END}\n{BEGIN}", TEXT + TEXT])
def test_markers_that_are_missing_or_doubled_are_an_error(project, monkeypatch, text):
    (project / "README.md").write_text(text)
    with pytest.raises(PipelineError, match="once each"):
        run(monkeypatch)


def test_missing_or_foreign_metrics_are_an_error(project, monkeypatch):
    (project / "reports/notebook/metrics.json").write_text("{}")
    with pytest.raises(PipelineError, match=r"not as the report writes it .*train_differences"):
        run(monkeypatch)
    for foreign in ("5", "[]", '{"train_differences": "text"}'):
        (project / "reports/notebook/metrics.json").write_text(foreign)
        with pytest.raises(PipelineError, match=r"metrics\.json: .*; run `dvc repro --force report`"):
            run(monkeypatch)
    (project / "reports/notebook/metrics.json").unlink()
    with pytest.raises(PipelineError, match="not found; run `dvc repro report`"):
        run(monkeypatch)
