"""How a full run is taken apart."""

from types import SimpleNamespace

import pytest

from benchmarks import jobs


def run(normalization, start, end):
    info = SimpleNamespace(start_time=1000 * start, end_time=1000 * end)
    return SimpleNamespace(info=info, data=SimpleNamespace(params={"normalization": normalization}))


def test_the_parts_of_a_full_run_are_its_whole(monkeypatch):
    """Two trials side by side, a third beside an idle worker, and a stage that finds everything in the ledger."""
    stages = [
        ("fetch", 0.0, 10.0),
        ("preprocess", 11.0, 14.0),
        ("train", 15.0, 100.0),
        ("train", 101.0, 105.0),
        ("evaluate", 106.0, 116.0),
        ("report", 117.0, 120.0),
    ]
    trials = [
        (run("none", 25, 55), [14.0, 15.0]),
        (run("none", 25, 55), [14.0, 14.0]),
        (run("batch", 55, 95), [18.0, 20.0]),
    ]
    monkeypatch.setenv("TRIAL_WORKERS", "2")
    parts = jobs.split_into_parts(121.0, stages, trials, {"none": 1.0, "batch": 2.0})
    assert sum(parts.values()) == pytest.approx(121.0)
    assert parts == pytest.approx(
        {
            "download and checks": 10.0,
            "preprocess": 3.0,
            "start-up": 10.0 + 4.0,
            "training": (29 + 28 + 38 - 2 * 1 - 2 * 1 - 2 * 2) / 2,
            "evaluation each epoch": (2 * 1 + 2 * 1 + 2 * 2) / 2,
            "opening and closing trials": (100 - 95) / 2,
            "idle workers": (95 - 25) - 100 / 2,
            "MLflow models and results": 100 - 95,
            "test set and references": 10.0,
            "report": 3.0,
            "DVC": 121.0 - 115.0,
        }
    )


def test_growth_changes_one_thing_at_a_time_and_shares_out_evenly():
    for what, seeds, epochs, workers in jobs.growth_points(cores=8):
        assert seeds % workers == 0, (what, seeds, epochs, workers)
    assert {(epochs, workers) for what, _, epochs, workers in jobs.growth_points(cores=8) if what == "seeds"} == {(2, 8)}
