"""docs/scaling.md says what was measured, and its model is arithmetic that can be followed."""

import json
import shutil
import sys

import pytest

from benchmarks import scaling
from pipeline.common.errors import PipelineError
from tests.conftest import ROOT


def measured(seconds: float) -> dict[str, float]:
    return {"median": seconds, "min": seconds, "max": seconds, "n": 1}


LEDGER = {
    "reads": [
        {"store": "sqlite", "runs": runs, "indexes": indexes, "find_100_s": measured(seconds)}
        for runs, indexes, seconds in ((1_000, True, 9.0), (100_000, True, 1.0), (100_000, False, 50.0))
    ],
    "writes": [
        {"store": "sqlite", "epochs": epochs, "trials_per_s": measured(rate)} for epochs, rate in (("one by one", 1.0), ("together", 4.0))
    ],
}
CLUSTER = {
    "trial_s": measured(60.0),
    "start": {"first_trial": measured(10.0)},
    "overhead": [{"trials": 10, "seconds": 99.0}, {"trials": 1_000, "seconds": 50.0}],
}


def test_the_driver_or_the_cpus_bound_the_whole_whichever_is_slower():
    model = scaling.model("sqlite", LEDGER, CLUSTER)
    assert model["per_trial_s"] == pytest.approx({"look_up": 0.01, "hand_out": 0.05, "write": 0.25})
    assert model["cpus_kept_busy"] == pytest.approx(200)
    whole = {row["cpus"]: row["1000"] for row in model["whole_s"]}
    assert whole[16] == pytest.approx(10 + 10 + 1_000 * 60 / 16)
    assert whole[1_024] == pytest.approx(10 + 10 + 1_000 * 0.3)


@pytest.fixture
def project(tmp_path, monkeypatch):
    for path in (scaling.PAGE, scaling.PAGE.parent / scaling.FIGURE, scaling.LEDGER, scaling.CLUSTER):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling", *arguments])
    scaling.main()


def test_another_measurement_is_found_out_and_put_into_the_page(project, monkeypatch):
    run(monkeypatch, "--check")
    results = json.loads(scaling.CLUSTER.read_text())
    results["start"]["connect"]["median"] = 12.3
    scaling.CLUSTER.write_text(json.dumps(results))
    with pytest.raises(PipelineError, match=r"run `python -m benchmarks\.scaling`"):
        run(monkeypatch, "--check")
    run(monkeypatch)
    run(monkeypatch, "--check")
    assert "| 12.3 (" in scaling.PAGE.read_text()


@pytest.mark.parametrize(("content", "message"), [("{", "not valid JSON"), ("{}", "not as they are measured .*"), (None, "not found")])
def test_figures_that_cannot_be_read_are_named(project, monkeypatch, content, message):
    scaling.CLUSTER.unlink()
    if content:
        scaling.CLUSTER.write_text(content)
    with pytest.raises(PipelineError, match=rf"cluster.json.*{message}; run `make bench-scaling`"):
        run(monkeypatch)
