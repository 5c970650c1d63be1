"""The experiment's note and views, in a real sqlite store."""

import json

import pytest

from pipeline.tracking.ledger import Ledger
from pipeline.tracking.views import VIEWS, describe_experiment, view_address

NOTE = "mlflow.note.content"


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return Ledger()


def tags_of(ledger) -> dict[str, str]:
    return ledger.client.get_experiment(ledger.experiment_id).tags


def note_of(ledger) -> str:
    return tags_of(ledger)[NOTE]


def test_every_view_is_one_that_mlflow_can_read(ledger):
    describe_experiment(ledger)
    tags = tags_of(ledger)
    for key, view in VIEWS.items():
        envelope = json.loads(tags[f"mlflow.sharedViewState.{key}"])
        assert envelope["name"] == view.name
        assert json.loads(envelope["state"])["searchFilter"] == view.search
        assert view_address(ledger.experiment_id, key) in tags[NOTE]
    times = [json.loads(tags[f"mlflow.sharedViewState.{key}"])["updatedAt"] for key in VIEWS]
    assert times == sorted(times, reverse=True)  # the menu lists the latest first


@pytest.mark.parametrize("key", VIEWS)
def test_the_search_of_every_view_is_one_that_mlflow_understands(ledger, key):
    ledger.client.search_runs([ledger.experiment_id], VIEWS[key].search)


def test_the_view_of_arms_has_the_trials_of_train_alone(ledger):
    for studies in ("train", "batch_size_grid,continued_training,core,train", "continued_training", "batch_size_grid,continued_training"):
        ledger.client.create_run(ledger.experiment_id, tags={"kind": "trial", "study": studies})
    found = ledger.client.search_runs([ledger.experiment_id], VIEWS["arms"].search)
    assert {run.data.tags["study"] for run in found} == {"train", "batch_size_grid,continued_training,core,train"}


def test_the_note_links_to_the_newest_run_of_each_kind(ledger, tmp_path):
    describe_experiment(ledger)
    assert "report.html" not in note_of(ledger)
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.html").write_text("")
    for _ in range(2):
        ledger.log_report(report, {"metric": 1.0})
    describe_experiment(ledger)
    newest = ledger.newest_run("report")
    assert f"#/experiments/{ledger.experiment_id}/runs/{newest}/artifacts/report.html" in note_of(ledger)


@pytest.mark.parametrize("changed", ["Another note.", "{} And a line of mine."])
def test_a_note_that_somebody_wrote_or_changed_stays(ledger, changed):
    describe_experiment(ledger)
    theirs = changed.format(note_of(ledger))
    ledger.client.set_experiment_tag(ledger.experiment_id, NOTE, theirs)
    describe_experiment(ledger)
    assert note_of(ledger) == theirs


def test_mlflows_own_experiment_is_left_alone(ledger, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    other = Ledger()
    describe_experiment(other)
    assert NOTE not in tags_of(other)
