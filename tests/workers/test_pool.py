import hashlib
import os
import subprocess
import sys
import tempfile
from contextlib import closing
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest

from pipeline.common.errors import PipelineError
from pipeline.workers.events import EpochEnded, Finished, Interrupted, Started
from pipeline.workers.local import LocalPool, worker_count
from pipeline.workers.pool import run_trials
from tests.conftest import kill_workers


@pytest.fixture
def trials(parameters):
    """Four short trials, of both arms."""
    level = {"hidden_units": [32, 16], "batch_size": 32, "epochs": 2, "dropout": 0.1}
    return {f"{arm}-{seed}": parameters.trial_config(arm, level, seed) for arm in ("baseline", "batch_norm") for seed in (0, 1)}


@pytest.fixture
def long_trial(parameters):
    """A trial that lasts long enough to be killed in its middle, and short enough to be run again."""
    return parameters.trial_config("batch_norm", {"hidden_units": [64], "batch_size": 4, "epochs": 60}, seed=0)


def events_of(trials, processed, results, *, ahead=MappingProxyType({}), **named):
    """One event at a time."""
    with (
        closing(LocalPool(len(trials) + len(ahead), processed, results)) as pool,
        closing(run_trials(pool, trials, ahead=ahead, **named)) as batches,
    ):
        yield from chain.from_iterable(batches)


def hashes(trials, processed, results) -> dict[str, str]:
    finished = [event for event in events_of(trials, processed, results) if isinstance(event, Finished)]
    files = {event.key: (event.result.history, event.result.weights) for event in finished}
    return {key: hashlib.sha256(b"".join(path.read_bytes() for path in files[key])).hexdigest() for key in sorted(files)}


def test_results_do_not_depend_on_workers_order_or_what_a_worker_did_before(trials, processed, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIAL_WORKERS", "1")
    in_one_used_worker = hashes(trials, processed, tmp_path / "1")
    assert sorted(in_one_used_worker) == sorted(trials)
    for workers in ("2", "3"):
        monkeypatch.setenv("TRIAL_WORKERS", workers)
        shuffled = dict(sorted(trials.items(), key=lambda item: hashlib.md5((workers + item[0]).encode()).digest()))
        assert hashes(shuffled, processed, tmp_path / workers) == in_one_used_worker
    monkeypatch.setenv("TRIAL_WORKERS", "1")
    in_fresh_workers = [hashes({key: config}, processed, tmp_path / "fresh") for key, config in trials.items()]
    assert {key: value for result in in_fresh_workers for key, value in result.items()} == in_one_used_worker


@pytest.mark.parametrize("characters", [46, 100])
def test_workers_start_wherever_temporary_files_are(characters):
    """Sockets lie among them, and the path of a socket has at most 107 characters."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        place = Path(folder) / ("x" * (characters - len(folder) - 1))
        place.mkdir()
        code = "import os; from pipeline.workers.local import call_in_worker; print(call_in_worker(os.getenv, 'TMPDIR'))"
        environment = {**os.environ, "TMPDIR": str(place)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert not list(place.iterdir())
    assert done.stdout.startswith(f"{place}/." if characters <= 46 else "/tmp/.")


def test_tells_each_trials_story_in_order(trials, processed, tmp_path):
    events = list(events_of(trials, processed, tmp_path / "results"))
    for key in trials:
        story = [event for event in events if event.key == key]
        assert [type(event) for event in story] == [Started, EpochEnded, EpochEnded, Finished]
        assert [event.metrics["epoch"] for event in story[1:3]] == [1, 2]
        assert all(event.seconds > 0 for event in story[1:3])


@pytest.mark.reliability
def test_a_trial_whose_worker_is_killed_is_run_again_with_the_same_result(long_trial, processed, tmp_path, record_property):
    undisturbed = hashes({"trial": long_trial}, processed, tmp_path / "undisturbed")
    events = []
    for event in events_of({"trial": long_trial}, processed, tmp_path / "disturbed"):
        if isinstance(event, EpochEnded) and not any(isinstance(earlier, EpochEnded) for earlier in events):
            record_property("workers_killed", kill_workers())
        events.append(event)
    assert [(event.key, event.gives_up) for event in events if isinstance(event, Interrupted)] == [("trial", False)]
    again = b"".join(path.read_bytes() for path in (events[-1].result.history, events[-1].result.weights))
    assert hashlib.sha256(again).hexdigest() == undisturbed["trial"]
    assert [path.name for path in (tmp_path / "disturbed").iterdir()] == ["trial"]


def test_a_trial_killed_every_time_is_given_up_by_name_and_the_others_are_kept(long_trial, trials, processed, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIAL_WORKERS", "1")
    finished = []
    with pytest.raises(PipelineError, match=r"gave up after 3 attempts.*doomed.*exit code -9"):
        for event in events_of({"doomed": long_trial, **trials}, processed, tmp_path / "results"):
            if isinstance(event, EpochEnded) and event.key == "doomed" and event.metrics["epoch"] == 1:
                kill_workers()
            if isinstance(event, Finished):
                finished.append(event.key)
    assert sorted(finished) == sorted(trials)


def test_workers_that_die_before_they_begin_are_replaced(long_trial, trials, processed, tmp_path, monkeypatch):
    """A kill between two trials, when the worker has not taken up the next."""
    monkeypatch.setenv("TRIAL_WORKERS", "1")
    events = []
    for event in events_of(trials, processed, tmp_path / "results"):
        if isinstance(event, Finished) and not events:
            kill_workers()
            events.append(event)
        elif isinstance(event, Finished):
            events.append(event)
    assert sorted(event.key for event in events) == sorted(trials)


def test_idle_workers_take_up_trials_ahead_in_order_and_finish_them(long_trial, trials, processed, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIAL_WORKERS", "2")
    events = list(events_of({"own": long_trial}, processed, tmp_path / "results", ahead=trials))
    taken = [event.key for event in events if isinstance(event, Started) and event.key != "own"]
    assert taken
    assert taken == list(trials)[: len(taken)]
    assert {event.key for event in events if isinstance(event, Finished)} == {"own", *taken}


def test_a_trial_near_its_end_is_not_made_to_wait_for_one_ahead(long_trial, processed, tmp_path, monkeypatch):
    """Two trials of the same length end nearly together, and then so does the run."""
    monkeypatch.setenv("TRIAL_WORKERS", "2")
    twin, equally_long = (long_trial.model_copy(update={"seed": seed}) for seed in (1, 2))
    events = list(events_of({"first": long_trial, "second": twin}, processed, tmp_path / "results", ahead={"ahead": equally_long}))
    assert {event.key for event in events} == {"first", "second"}


def test_a_trial_ahead_whose_worker_dies_is_left_to_its_own_stage(long_trial, processed, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIAL_WORKERS", "2")
    ahead = {"ahead": long_trial.model_copy(update={"seed": 1})}
    events, killed = [], False
    for event in events_of({"own": long_trial}, processed, tmp_path / "results", ahead=ahead):
        events.append(event)
        if isinstance(event, EpochEnded) and event.key == "ahead" and not killed:
            kill_workers()
            killed = True
    assert [event.gives_up for event in events if isinstance(event, Interrupted) and event.key == "ahead"] == [True]
    assert {event.key for event in events if isinstance(event, Finished)} == {"own"}


def test_one_worker_never_works_ahead(trials, processed, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIAL_WORKERS", "1")
    own = {"baseline-0": trials["baseline-0"]}
    assert {event.key for event in events_of(own, processed, tmp_path / "results", ahead=trials)} == {"baseline-0"}


def test_leaving_early_stops_the_workers(long_trial, processed, tmp_path):
    events = events_of({"trial": long_trial}, processed, tmp_path / "results")
    next(events)
    events.close()
    assert not [worker for child in psutil.Process().children() for worker in child.children()]
    assert not (tmp_path / "results" / "trial").exists()


def test_uses_every_core_this_process_may_use(monkeypatch):
    monkeypatch.delenv("TRIAL_WORKERS", raising=False)
    allowed = psutil.Process().cpu_affinity()
    psutil.Process().cpu_affinity(allowed[:1])
    try:
        assert worker_count() == 1
    finally:
        psutil.Process().cpu_affinity(allowed)


@pytest.mark.parametrize("value", ["0", "-1", "two", ""])
def test_a_wrong_number_of_workers_is_named(monkeypatch, value):
    monkeypatch.setenv("TRIAL_WORKERS", value)
    with pytest.raises(PipelineError, match="TRIAL_WORKERS"):
        worker_count()
