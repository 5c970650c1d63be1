"""What keeps trials from a Ray cluster is told in one line, before anything is trained."""

import importlib
import socket
import sys
from contextlib import closing

import pytest

from pipeline.common.errors import PipelineError
from pipeline.trials.execution import open_pool
from pipeline.workers.pool import run_trials


@pytest.fixture
def trials(parameters):
    return {"trial": parameters.trial_config("baseline", {"epochs": 1}, seed=0)}


def run(trials, processed, tmp_path) -> None:
    with closing(open_pool("ray", len(trials), processed, tmp_path / "results")) as pool:
        list(run_trials(pool, trials))


def test_without_ray_the_command_that_installs_it_is_named(trials, processed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "pipeline.cluster.ray_pool", raising=False)
    with pytest.raises(PipelineError, match=r"runner: Ray is not installed; run `make cluster`, or set it to local"):
        run(trials, processed, tmp_path)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, r"params.yaml: runner: ray needs RAY_ADDRESS, which is not set; set it to the head's host:port"),
        ({"RAY_ADDRESS": ""}, r"RAY_ADDRESS, which is not set"),
        ({"RAY_ADDRESS": "ray://127.0.0.1:10001"}, r"RAY_ADDRESS: ray://127.0.0.1:10001: Ray Client is not supported"),
        ({"RAY_ADDRESS": "nonsense"}, r"the Ray cluster at RAY_ADDRESS=nonsense cannot be used: .*nonsense"),
        ({"RAY_ADDRESS": "127.0.0.1:port"}, r"the Ray cluster at RAY_ADDRESS=127.0.0.1:port cannot be used: .*port"),
        ({"RAY_ADDRESS": "auto", "TRIAL_GPUS": "two"}, r"TRIAL_GPUS: should be a part of a GPU from 0 to 1, such as 0.25 \(got 'two'\)"),
        ({"RAY_ADDRESS": "auto", "TRIAL_GPUS": "nan"}, r"TRIAL_GPUS: should be a part"),
        ({"RAY_ADDRESS": "auto", "TRIAL_GPUS": "2"}, r"TRIAL_GPUS: should be a part"),
    ],
)
def test_a_variable_that_is_missing_or_wrong_is_named(trials, processed, tmp_path, monkeypatch, variables, message):
    importlib.import_module("ray")
    for name in ("RAY_ADDRESS", "TRIAL_GPUS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PipelineError, match=message):
        run(trials, processed, tmp_path)


@pytest.mark.cluster
def test_where_nobody_answers_it_is_told_soon(trials, processed, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(PipelineError, match=rf"RAY_ADDRESS=127.0.0.1:{port} cannot be used: .*refused; see that it runs"):
        run(trials, processed, tmp_path)


@pytest.mark.cluster
def test_a_gpu_that_trials_would_not_get_is_not_passed_over(trials, processed, tmp_path, monkeypatch):
    importlib.import_module("ray")
    from pipeline.cluster import ray_pool

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(ray_pool, "computing_environment", lambda: {"gpu": "NVIDIA A100"})
    with pytest.raises(PipelineError, match=r"this machine has a GPU, .*set TRIAL_GPUS to the part of it that a trial gets"):
        run(trials, processed, tmp_path)
