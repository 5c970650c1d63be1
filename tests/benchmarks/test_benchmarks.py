"""The benchmark's own parts, on a small size of work."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import __main__ as benchmark
from benchmarks import jobs, steps
from benchmarks.contenders.project import config_of
from benchmarks.contenders.work import Work
from benchmarks.measure import spread
from benchmarks.report import ratios
from pipeline.common.errors import PipelineError
from tests.conftest import ROOT


@pytest.fixture
def work(monkeypatch):
    """A short block of 192 images at batch size 32, with BN; the arrays are there as long as the generator is."""
    monkeypatch.setattr(steps, "MAXIMUM_IMAGES", 192)
    works = steps.works([32])
    next(works)
    yield next(works)
    works.close()


@pytest.mark.laboratory
def test_project_and_notebook_do_the_same_work_and_are_timed(work, monkeypatch):
    monkeypatch.setenv("TRIAL_WORKERS", "2")
    rows = steps.measure_steps(work, steps.set_ups(["project", "notebook"]), repeats=1)
    assert [(row["contender"], row["processes"], row["threads"]) for row in rows] == [
        ("project", 1, 1),
        ("project", 2, 1),
        ("notebook", 1, 2),
    ]
    assert all(row["same_work"] for row in rows), [row["losses"] for row in rows]
    for row in rows:
        at_equal_speed = row["processes"] * 32 / row["step_ms"]["median"] * 1e3
        assert row["images_per_s"]["median"] >= at_equal_speed * (1 - 1e-9)  # more, if one process had a busier core than the other
        assert 0.1 < row["peak_memory_gb"] < 10
        assert row["first_step_s"] > row["step_ms"]["median"] / 1e3


@pytest.mark.laboratory
def test_the_floor_is_measured_beside_the_step(work):
    measured = steps.measure_floor(work, repeats=5)
    assert measured["over_floor"]["n"] == 5
    assert measured["products_ms"]["n"] == measured["optimizer_ms"]["n"] == measured["step_ms"]["n"] == 5
    floors = measured["products_ms"]["min"] + measured["optimizer_ms"]["min"]
    assert measured["over_floor"]["max"] <= measured["step_ms"]["max"] / floors
    assert measured["evaluation_s"]["min"] > 0


def test_the_work_is_the_same_whatever_params_yaml_says(tmp_path, monkeypatch):
    work = Work(str(tmp_path), 32, "batch", 192)
    ordinary = config_of(work)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("learning_rate: 0.001", "learning_rate: 0.5"))
    monkeypatch.chdir(tmp_path)
    assert config_of(work) == ordinary


@pytest.mark.laboratory
def test_steps_are_timed_with_each_set_of_instructions(monkeypatch):
    monkeypatch.setattr(steps, "MAXIMUM_IMAGES", 192)
    setups = {name: steps.Setup(variables=steps.INSTRUCTION_SETS[name]) for name in ("everything", "at most AVX2")}
    rows = steps.measure_variants("setting", setups, batch_size=32, repeats=1)
    assert [(row["setting"], row["normalization"]) for row in rows] == [
        (name, normalization) for normalization in ("none", "batch") for name in setups
    ]
    assert all(row["step_ms"]["median"] > 0 for row in rows)


def test_the_largest_difference_of_each_metric_is_found():
    reference = pd.DataFrame({"arm": "baseline", "epoch": [1, 2], "loss": [2.0, 1.0]})
    assert jobs.largest_difference(reference.assign(loss=[2.5, 1.25]), reference) == {"loss": 0.5}


def test_other_work_is_noticed():
    assert steps.did_same_work([2.001, 1.499], reference=[2.0, 1.5])
    assert not steps.did_same_work([2.0, 1.4], reference=[2.0, 1.5])


def test_a_contender_that_dies_says_why(work):
    (Path(work.folder) / "kernels.npz").unlink()
    with pytest.raises(PipelineError, match=r"kernels\.npz"):
        steps.Process("notebook", work, {})


def step(contender, processes, images_per_s):
    return {
        "contender": contender,
        "processes": processes,
        "batch_size": 64,
        "normalization": "batch",
        "images_per_s": spread([images_per_s]),
        "same_work": contender != "pytorch_eager",
    }


def test_ratios_are_of_medians_and_of_the_best_set_up():
    speeds = [("project", 1, 100), ("project", 2, 180), ("notebook", 1, 60), ("jax_scan", 2, 150), ("jax_scan", 1, 120)]
    steps_measured = [step(*speed) for speed in [*speeds, ("pytorch_eager", 2, 999)]]
    floors = [{"batch_size": 64, "normalization": name, "over_floor": spread([value])} for name, value in (("none", 1.1), ("batch", 1.3))]
    parts = {"training": 60.0, "evaluation each epoch": 20.0, "DVC": 20.0}
    jobs = {
        "notebook": {"scaled_s": 700.0},
        "dvc_repro_of_the_same_five": {"seconds": 200.0},
        "full_repro": {"seconds": 100.0, "parts": parts, "worker_peak_gb": 1.1},
        "noop_repro_s": spread([2.0, 3.0, 9.0]),
    }
    assert ratios({"steps": steps_measured, "floor": floors, "whole_jobs": jobs}) == pytest.approx(
        {
            "notebook_whole_job": 3.5, "best_peer_images_per_s": 1.2, "step_over_floor": 1.3, "step_over_floor_without_batch_norm": 1.1,
            "not_training_share": 0.4, "neither_training_nor_evaluation_share": 0.2, "noop_repro_s": 3.0, "worker_peak_gb": 1.1,
            "two_workers_over_one": 1.8, "notebook_images_per_s": 3.0,
        }
    )  # fmt: skip


def test_the_committed_ratios_follow_from_the_committed_measurements():
    results = json.loads((ROOT / "benchmarks/results.json").read_text())
    assert results["ratios"] == pytest.approx(ratios(results))
    assert all(row["same_work"] for row in results["steps"])


def test_each_part_keeps_the_environment_it_was_add_environment(monkeypatch):
    monkeypatch.setattr(benchmark, "_environment", lambda: {"cpu": "this"})
    elsewhere = {"environment": {"cpu": "that"}, "parts": ["floor", "growth"]}
    after_floor = benchmark.add_environment({"environments": [elsewhere]}, "floor")
    assert after_floor == [{**elsewhere, "parts": ["growth"]}, {"environment": {"cpu": "this"}, "parts": ["floor"]}]
    assert benchmark.add_environment({"environments": after_floor}, "growth") == [
        {"environment": {"cpu": "this"}, "parts": ["floor", "growth"]}
    ]


def test_a_full_run_is_not_taken_apart_by_another_machines_floor(monkeypatch):
    monkeypatch.setattr(benchmark, "_environment", lambda: {"cpu": "this"})
    with pytest.raises(PipelineError, match="no floor of this machine"):
        benchmark._measure_full_run({"environments": [{"environment": {"cpu": "that"}, "parts": ["floor"]}], "floor": []})
