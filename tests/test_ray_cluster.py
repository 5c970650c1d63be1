"""Trials on a real Ray cluster of two nodes give what local workers give, whatever happens to the nodes."""

import hashlib
import time
from collections.abc import Callable
from contextlib import closing
from itertools import chain

import pytest

from pipeline.errors import PipelineError
from pipeline.runner import run_trials
from pipeline.trial_events import EpochEnded, Finished, Interrupted, Started

from tests.ray_nodes import RayNodes, ray_nodes

pytestmark = pytest.mark.cluster


@pytest.fixture
def cluster(monkeypatch):
    with ray_nodes() as nodes:
        for name, value in nodes.variables.items():
            monkeypatch.setenv(name, value)
        yield nodes


@pytest.fixture
def trials(parameters):
    level = {"hidden_units": [32, 16], "batch_size": 32, "epochs": 2, "dropout": 0.1}
    return {f"{arm}-{seed}": parameters.trial_config(arm, level, seed) for arm in ("baseline", "batch_norm") for seed in (0, 1)}


@pytest.fixture
def long_trials(parameters):
    """Two trials that last long enough for something to happen to their nodes."""
    level = {"hidden_units": [64], "batch_size": 4, "epochs": 60}
    return {f"long-{seed}": parameters.trial_config("batch_norm", level, seed) for seed in (0, 1)}


def events_of(*arguments, **named):
    with closing(run_trials(*arguments, **named)) as happenings:
        yield from chain.from_iterable(happenings)


def hashes(events) -> dict[str, str]:
    finished = {event.key: event.result for event in events if isinstance(event, Finished)}
    return {key: hashlib.sha256(result.history.read_bytes() + result.weights.read_bytes()).hexdigest() for key, result in finished.items()}


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.1)


def test_results_are_those_of_local_workers_on_both_nodes(cluster: RayNodes, trials, processed, tmp_path):
    second = cluster.add()
    events = list(events_of(trials, processed, tmp_path / "ray", runner="ray"))
    assert all(any("_train" in worker.name() or worker.is_running() for worker in node.workers()) for node in (cluster.nodes[0], second))
    assert hashes(events) == hashes(events_of(trials, processed, tmp_path / "local"))
    for key in trials:
        assert [type(event) for event in events if event.key == key] == [Started, EpochEnded, EpochEnded, Finished]
