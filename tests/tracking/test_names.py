"""Tag and metric names: one module, and one function that tags every trial."""

import ast

import pytest

from checks.clone import ROOT
from pipeline.tracking import names
from pipeline.training import metric_names
from pipeline.trials import execution
from pipeline.trials.execution import Trial
from pipeline.trials.key import code_fingerprint

EPOCH_METRICS = metric_names.EPOCH_METRICS | metric_names.BATCH_NORM_METRICS
ALSO_COLUMNS = {
    "study",
    "arm",
    "seed",
    "trial",
    "report",
    "form",
    "val_accuracy",
    "diverged",
}  # or files


def test_a_tag_that_one_function_names_is_on_every_trial_and_changes_no_key(parameters, monkeypatch):
    """The line that a user would add to `trial_tags` is added here from outside."""
    added = "colour"
    before = code_fingerprint()
    own = names.trial_tags
    monkeypatch.setattr(execution, "trial_tags", lambda *described: {**own(*described), added: "red"})
    started = {}

    class Ledger:
        def start(self, name, config, tags, note):
            started[name] = tags
            return name

    trials = {str(seed): Trial("train", "baseline", {}, parameters.trial_config("baseline", {}, seed), "0" * 32) for seed in (0, 1)}
    recorder = execution._Recorder(Ledger(), trials)
    recorder.record([execution.Started("0", "here"), execution.Started("1", "there")])
    assert [tags[added] for tags in started.values()] == ["red", "red"]
    assert (
        started["baseline-b64-s1"] | {"trial_key": "1", "host": "there", "study": "train", "arm": "baseline"} == started["baseline-b64-s1"]
    )
    code_fingerprint.cache_clear()
    assert code_fingerprint() == before


def test_no_stage_depends_on_the_names():
    for file in ("dvc.yaml", "claims/dvc.yaml"):
        assert "pipeline/tracking/" not in (ROOT / file).read_text()


def test_the_epoch_metrics_that_are_shown_are_measured():
    assert {*names.LAST_METRICS, *names.CURVES, *names.PARALLEL} <= EPOCH_METRICS.keys()


@pytest.mark.parametrize("room", ["tracking", "serving"])
def test_no_other_module_spells_them(room):
    ours = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)} - ALSO_COLUMNS
    for path in set((ROOT / "pipeline" / room).glob("*.py")) - {ROOT / "pipeline/tracking/names.py"}:
        constants = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        texts = {value for value in constants if isinstance(value, str)}
        assert not texts & ours, path


def test_a_trial_is_tagged_by_what_it_says_of_itself():
    assert names.trial_tags("a" * 64, "core", "layer_norm", "0" * 32, "c" * 64, "host") == {
        "trial_key": "a" * 64, "study": "core", "arm": "layer_norm", "data_md5": "0" * 32, "code": "c" * 64, "host": "host",
    }  # fmt: skip
