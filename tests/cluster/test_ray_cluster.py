"""Trials on a real Ray cluster of two nodes give what local workers give, whatever happens to nodes and driver."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from benchmarks.ray_nodes import RAY, Node, RayNodes, ray_nodes
from pipeline.common.errors import PipelineError
from pipeline.trials.execution import open_pool
from pipeline.workers.events import EpochEnded, Finished, Interrupted, Started
from pipeline.workers.pool import run_trials
from tests.conftest import ROOT, kill_group, read_until, stage_environment

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


def trial_workers(*nodes: Node) -> list[psutil.Process]:
    """The processes of the nodes that execute trials."""
    return [process for node in nodes for process in node.processes() if title(process).startswith("ray::trial")]


def title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def events_of(trials, processed, results, runner="local"):
    with closing(open_pool(runner, len(trials), processed, results)) as pool, closing(run_trials(pool, trials)) as batches:
        yield from chain.from_iterable(batches)


def hashes(events) -> dict[str, str]:
    finished = {event.key: event.result for event in events if isinstance(event, Finished)}
    return {key: hashlib.sha256(result.history.read_bytes() + result.weights.read_bytes()).hexdigest() for key, result in finished.items()}


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.1)


def test_results_are_those_of_local_workers(cluster: RayNodes, trials, processed, tmp_path):
    second = cluster.add()
    events, busy = [], set()
    for event in events_of(trials, processed, tmp_path / "ray", runner="ray"):
        events.append(event)
        busy |= {node for node in (cluster.nodes[0], second) if trial_workers(node)}
    assert busy == {cluster.nodes[0], second}
    assert hashes(events) == hashes(events_of(trials, processed, tmp_path / "local"))
    for key in trials:
        assert [type(event) for event in events if event.key == key] == [Started, EpochEnded, EpochEnded, Finished]


def test_no_more_trials_than_cpus_are_executed_at_once(cluster: RayNodes, parameters, processed, tmp_path):
    """Whatever they tell meanwhile: Ray takes a task that waits for an answer to need no CPU."""
    config = parameters.trial_config("baseline", {"hidden_units": [2], "epochs": 100}, seed=0)
    at_once = set()
    for event in events_of({str(number): config for number in range(6)}, processed, tmp_path / "ray", runner="ray"):
        if isinstance(event, EpochEnded):
            at_once.add(len(trial_workers(*cluster.nodes)))
    assert max(at_once) == 1


def test_data_are_placed_once_on_each_node_for_all_of_its_workers(monkeypatch, parameters, processed, tmp_path):
    # No trial ends before all have begun, and results would be so small that Ray keeps them elsewhere.
    config = parameters.trial_config("baseline", {"hidden_units": [2], "batch_size": 4, "epochs": 400}, seed=0)
    with ray_nodes(cpus=2) as nodes:
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        nodes.add(cpus=2)
        started = 0
        for event in events_of({str(number): config for number in range(4)}, processed, tmp_path / "ray", runner="ray"):
            started += isinstance(event, Started)
            if started == 4:
                told = subprocess.run([RAY, "memory", "--stats-only"], capture_output=True, text=True, check=True).stdout
                break
    assert "4 objects" in told, told  # two splits on two nodes, and not on four workers


def test_a_node_that_is_killed_costs_only_its_trial_which_runs_again_elsewhere(
    cluster: RayNodes, long_trials, processed, tmp_path, record_property
):
    second, events, started = cluster.add(), [], set()
    for event in events_of(long_trials, processed, tmp_path / "ray", runner="ray"):
        events.append(event)
        if isinstance(event, EpochEnded) and started != set(long_trials):
            started.add(event.key)
            if started == set(long_trials):
                second.kill()
    [interrupted] = [event for event in events if isinstance(event, Interrupted)]
    assert not interrupted.gives_up
    assert [type(event) for event in events if event.key == interrupted.key].count(Started) == 2
    assert hashes(events) == hashes(events_of(long_trials, processed, tmp_path / "local"))
    record_property("nodes_killed", 1)
    record_property("cluster_runs_lost", len(long_trials) - len(hashes(events)))


def test_a_node_that_is_added_is_used(cluster: RayNodes, long_trials, processed, tmp_path):
    kinds, added = [], None
    for event in events_of(long_trials, processed, tmp_path / "ray", runner="ray"):
        kinds.append(type(event))
        if isinstance(event, EpochEnded) and added is None:
            added = cluster.add()
    assert kinds.index(Finished) > [place for place, kind in enumerate(kinds) if kind is Started][1]


def test_a_node_that_computes_otherwise_is_named_and_gets_no_trial(cluster: RayNodes, trials, processed, tmp_path, capsys, record_property):
    cluster.add(ONEDNN_MAX_CPU_ISA="AVX2")
    events = list(events_of(trials, processed, tmp_path / "ray", runner="ray"))
    assert "ONEDNN_MAX_CPU_ISA AVX2, on this machine none; its results would differ" in capsys.readouterr().out
    assert hashes(events) == hashes(events_of(trials, processed, tmp_path / "local"))
    record_property("nodes_refused", 1)


def test_no_trial_runs_where_no_node_computes_as_this_machine_does(
    cluster: RayNodes, trials, processed, tmp_path, monkeypatch, record_property
):
    monkeypatch.setattr("pipeline.cluster.ray_pool._comparable_environment", lambda: {"cpu": "another"})
    with pytest.raises(PipelineError, match=r"no node of the Ray cluster computes as this machine does .*cpu .*, on this machine another"):
        list(events_of(trials, processed, tmp_path / "ray", runner="ray"))
    record_property("nodes_refused", 1)


def test_a_trial_whose_workers_are_killed_every_time_is_given_up_by_name(
    cluster: RayNodes, long_trials, processed, tmp_path, record_property
):
    doomed, killed = {"long-0": long_trials["long-0"]}, 0
    with pytest.raises(PipelineError, match=r"gave up after 3 attempts each: trial the doomed"):
        for event in events_of(doomed, processed, tmp_path / "ray", runner="ray", names={"long-0": "the doomed"}):
            if isinstance(event, EpochEnded) and event.metrics["epoch"] == 1:
                for worker in trial_workers(*cluster.nodes):
                    worker.kill()
                    killed += 1
    record_property("ray_workers_killed", killed)


@pytest.fixture
def project(tmp_path, processed, monkeypatch):
    """A folder as a stage finds it, with four trials of some seconds."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:  # as MLflow leaves them in a process that has tested more
        monkeypatch.delenv(name)
    yaml = YAML()
    content = yaml.load(ROOT / "params.yaml")
    content["runner"] = "ray"
    content["trial"].update(epochs=30, hidden_units=[64], batch_size=4)
    content["studies"]["train"]["seeds"] = [0, 1, 2, 3]
    yaml.dump(content, tmp_path / "params.yaml")
    return tmp_path


STAGE = [sys.executable, "-m", "pipeline.train", "train", "baseline"]


def start_stage(project: Path) -> subprocess.Popen[str]:
    environment = stage_environment(DVC_ROOT=str(project))
    return subprocess.Popen(
        STAGE, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def statuses(project: Path) -> list[str]:
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("cifar10-batch-norm")
    return sorted(run.info.status for run in client.search_runs([experiment.experiment_id], "tags.arm = 'baseline'"))


def test_a_killed_driver_leaves_no_orphans_and_goes_on_from_the_ledger(cluster: RayNodes, project, record_property):
    cluster.add()
    driver = start_stage(project)
    read_until(driver, "finished (1/")
    kill_group(driver)
    wait_until(lambda: not trial_workers(*cluster.nodes))
    again = start_stage(project)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert "of 4 trials are in the ledger already" in said
    assert "RUNNING" not in statuses(project)
    assert statuses(project).count("FINISHED") == 4
    local = shutil.copytree(project / "results", project / "ray_results")
    environment = stage_environment(DVC_ROOT=str(project), TRIAL_LEDGER="off")
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("runner: ray", "runner: local"))
    subprocess.run(STAGE, cwd=project, env=environment, check=True, capture_output=True)
    for path in (project / "results").rglob("*"):
        assert path.is_dir() or path.read_bytes() == (local / path.relative_to(project / "results")).read_bytes()
    record_property("drivers_killed", 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cancelling_leaves_no_orphan_and_no_open_run(cluster: RayNodes, project, number, record_property):
    cluster.add()
    driver = start_stage(project)
    wait_until(lambda: len(trial_workers(*cluster.nodes)) == 2, seconds=90)
    read_until(driver, "room for 2 trials")
    wait_until(lambda: (project / "mlflow.db").exists() and "RUNNING" in statuses(project))
    driver.send_signal(number)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert "stopped; what was finished is kept" in said
    wait_until(lambda: not trial_workers(*cluster.nodes))
    assert set(statuses(project)) == {"KILLED"}
    record_property("drivers_cancelled", 1)


def test_a_lost_head_is_explained_and_nothing_finished_is_lost(cluster: RayNodes, project, record_property):
    driver = start_stage(project)
    read_until(driver, "finished (1/")
    cluster.nodes[0].kill()
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode != 0
    assert "error: lost the Ray cluster" in said
    assert statuses(project).count("FINISHED") == 1
    record_property("heads_killed", 1)
    record_property("cluster_runs_lost", 1 - statuses(project).count("FINISHED"))
