"""Trials as tasks of a Ray cluster, on the nodes that compute as this machine does. Each node gets the data once."""

from __future__ import annotations

import os
import platform
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.common.addresses import reason
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.images.arrays import Examples, load_examples
from pipeline.training.config import TrialConfig
from pipeline.training.environment import computing_environment, kernel_variables
from pipeline.workers.events import EpochEnded, Event, Finished, Interrupted, Started
from pipeline.workers.work import Send, result_of, work

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise PipelineError("params.yaml: runner: Ray is not installed; run `make cluster`, or set it to local") from None

ADDRESS_VARIABLE = "RAY_ADDRESS"
GPUS_VARIABLE = "TRIAL_GPUS"
HIDDEN_GPUS = "CUDA_VISIBLE_DEVICES"  # Ray sets it where it gives a task a GPU
NODE_LABEL = "ray.io/node-id"  # Ray gives it to every node
POLL_SECONDS = 0.2
SECONDS_BETWEEN_LOOKS = 2.0  # at the nodes of the cluster
SECONDS_TO_ANSWER = 10.0
PACKAGE = Path(__file__).parents[1]

Work = Callable[[str, TrialConfig, Examples, Examples, Path, Send], None]


class UnlikeNodeError(Exception):
    """A node does not compute as the driver's machine does, so that trials there would not give the bits that their keys promise."""

    def __init__(self, node: str, host: str, differences: str) -> None:
        super().__init__(node, host, differences)
        self.node = node
        self.description = f"node {host}: {differences}"


class RayPool:
    """A connection to the cluster at RAY_ADDRESS.

    A trial asks for one CPU, and for TRIAL_GPUS of a GPU where that is set. Nodes need the packages of this machine; code and
    data are sent to them. Results come back here, so only this process needs access to MLflow.

    Args:
        processed: The folder of the processed data.
        results: The folder for the results of trials.
        work: What a task does with a trial, in place of training.

    Raises:
        PipelineError: a variable is missing or wrong, nobody answers at the address, or what answers is another version.
    """

    def __init__(self, processed: Path, results: Path, work: Work | None = None) -> None:
        self._results = results.resolve()
        self._gpus = _gpus_per_trial()
        data = [load_examples(split, processed) for split in ("train", "validation")]
        _connect()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._queue = ray.remote(EventQueue).options(num_cpus=0, scheduling_strategy=here).remote()
        # A node that runs a trial copies them into its shared memory once, for all of its workers.
        placed = [ray.put(replace(examples, images=np.asarray(examples.images), labels=np.asarray(examples.labels))) for examples in data]
        self._arguments = [*placed, self._queue, _comparable_environment(), work or train_on_node]
        self._task = ray.remote(num_cpus=1, num_gpus=self._gpus)(_execute)
        self._pending: dict[Any, tuple[str, TrialConfig, int]] = {}  # key, configuration and attempts
        self._hosts: dict[str, str] = {}  # of the trials that have started
        self._unlike: dict[str, str] = {}  # descriptions of the nodes that get no trials
        self._slots, self._looked = 0, float("-inf")

    @property
    def workers(self) -> int:
        """How many trials the nodes of the cluster can execute at once, at present; at least 1, since nodes may come."""
        if time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            slots = sum(self._slots_of(node) for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self._unlike)
            if slots != self._slots or self._looked == float("-inf"):
                print(f"the cluster has room for {slots} trials at once{'' if slots else '; waiting for nodes'}", flush=True)
            self._slots, self._looked = slots, time.monotonic()
        return max(1, self._slots)

    def submit(self, key: str, config: TrialConfig, attempts: int) -> None:
        """Execute a trial. If its node is lost, Ray starts it on another, so many times in all."""
        elsewhere = {NODE_LABEL: f"!in({','.join(self._unlike)})"} if self._unlike else None
        task = self._task.options(max_retries=attempts - 1, label_selector=elsewhere, name=f"trial {key[:8]}")
        self._pending[task.remote(key, config, *self._arguments)] = key, config, attempts

    def next_events(self) -> list[Event]:
        """Wait a moment for something to happen, and return all that has, in order."""
        pending = list(self._pending)
        try:
            ray.wait(pending, timeout=POLL_SECONDS)
            # Looked up before the queue is read, so that a trial's events come before its end.
            ended, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
            sent = ray.get(self._queue.take.remote())
        except RayError as error:
            raise PipelineError(f"lost the Ray cluster ({reason(error)}); what was finished is kept, run again to go on") from None
        events: list[Event] = []
        for event in sent:
            if isinstance(event, Started):
                if event.key in self._hosts:  # a second start means that the first worker was lost
                    events.append(Interrupted(event.key, f"its worker on {self._hosts[event.key]} was lost", gives_up=False))
                self._hosts[event.key] = event.host
            events.append(event)
        return events + [event for reference in ended if (event := self._end_of(reference))]

    def close(self) -> None:
        """Stop what is under way, and leave the cluster."""
        for reference in self._pending:
            ray.cancel(reference, force=True)
        ray.shutdown()

    def _slots_of(self, node: dict[str, Any]) -> int:
        resources = node["Resources"]
        cpus = int(resources.get("CPU", 0))
        return min(cpus, int(resources.get("GPU", 0) / self._gpus)) if self._gpus else cpus

    def _end_of(self, reference: Any) -> Finished | Interrupted | None:  # noqa: ANN401 - Ray's references have no public type
        key, config, attempts = self._pending.pop(reference)
        self._hosts.pop(key, None)
        try:
            files = ray.get(reference)
        except UnlikeNodeError as error:
            self._avoid(error)
            self.submit(key, config, attempts)
            return None
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            return Interrupted(key, reason(error), gives_up=True)
        result = result_of(key, self._results)
        with replacing(result.folder) as temporary:
            temporary.mkdir()
            for name, content in files.items():
                (temporary / name).write_bytes(content)
        return Finished(key, result)

    def _avoid(self, error: UnlikeNodeError) -> None:
        if error.node not in self._unlike:
            print(f"{error.description}; its results would differ in their bits, so it gets no trials", flush=True)
        self._unlike[error.node] = error.description
        self._looked = float("-inf")
        able = [node["NodeID"] for node in ray.nodes() if node["Alive"] and self._slots_of(node)]
        if all(node in self._unlike for node in able):
            unlike = "; ".join(self._unlike.values())
            raise PipelineError(f"no node of the Ray cluster computes as this machine does ({unlike}); run this on a node like them")


class EventQueue:
    """An actor beside the driver: tasks put events in, and the driver takes them out."""

    def __init__(self) -> None:
        self._events: list[Started | EpochEnded] = []

    def put(self, event: Started | EpochEnded) -> None:
        """Add an event."""
        self._events.append(event)

    def take(self) -> list[Started | EpochEnded]:
        """Return all events, in the order in which they came, and keep none."""
        events, self._events = self._events, []
        return events


def _execute(
    key: str,
    config: TrialConfig,
    train: Examples,
    validation: Examples,
    queue: Any,  # noqa: ANN401 - Ray's handles have no public type
    expected: dict[str, str],
    work: Work,
) -> dict[str, bytes]:
    """Execute a trial on a node, and return the files of its result by name."""
    own = _comparable_environment()
    if names := [name for name in sorted({*own, *expected}) if own.get(name) != expected.get(name)]:
        differences = "; ".join(f"{name} {own.get(name, 'none')}, on this machine {expected.get(name, 'none')}" for name in names)
        raise UnlikeNodeError(ray.get_runtime_context().get_node_id(), platform.node(), differences)
    with tempfile.TemporaryDirectory(prefix="trial-") as folder:
        # In ray.get a task would give up its CPU while it waits, and Ray would begin one trial more than there are CPUs.
        work(key, config, train, validation, Path(folder), lambda event: queue.put.remote(event).future().result())
        return {path.name: path.read_bytes() for path in sorted(result_of(key, Path(folder)).folder.iterdir())}


@cache
def _comparable_environment() -> dict[str, str]:
    """What must be equal on a node: all that the trial keys hold, but for the GPUs that Ray chooses for a task."""
    return {name: value for name, value in computing_environment().items() if name != HIDDEN_GPUS}


def train_on_node(key: str, config: TrialConfig, train: Examples, validation: Examples, results: Path, send: Send) -> None:
    """Train as a local worker does."""
    _compute_deterministically()
    work(key, config, train, validation, results, send)


@cache
def _compute_deterministically() -> None:
    from pipeline.training import quiet_tensorflow, settings  # noqa: F401 - in this order

    settings.compute_deterministically()


def _gpus_per_trial() -> float:
    asked = os.environ.get(GPUS_VARIABLE, "0")
    try:
        gpus = float(asked)
    except ValueError:
        gpus = -1
    if not 0 <= gpus <= 1:
        raise PipelineError(f"{GPUS_VARIABLE}: should be a part of a GPU from 0 to 1, such as 0.25 (got {asked!r})")
    if gpus == 0 and "gpu" in computing_environment() and os.environ.get(HIDDEN_GPUS) is None:
        ways = f"set {GPUS_VARIABLE} to the part of it that a trial gets, or {HIDDEN_GPUS}= to use none"
        raise PipelineError(f"this machine has a GPU, on which trials of the local runner are computed; {ways}")
    return gpus


def _connect() -> None:
    address = os.environ.get(ADDRESS_VARIABLE)
    if not address:
        way = "set it to the head's host:port, or to auto for the cluster that this machine is a node of"
        raise PipelineError(f"params.yaml: runner: ray needs {ADDRESS_VARIABLE}, which is not set; {way}, or set runner: local")
    if "://" in address:
        raise PipelineError(f"{ADDRESS_VARIABLE}: {address}: Ray Client is not supported; start this command on a node of the cluster")
    host, colon, port = address.rpartition(":")
    code = {"py_modules": [str(PACKAGE)], "excludes": ["__pycache__"], "env_vars": kernel_variables()}
    before = signal.getsignal(signal.SIGTERM)
    try:
        if colon:  # Ray itself would ask for minutes
            socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env=code)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        fault = f"the Ray cluster at {ADDRESS_VARIABLE}={address} cannot be used: {reason(error)}"
        hint = "see that it runs, that this machine is one of its nodes, and that RAY_AUTH_MODE and RAY_AUTH_TOKEN are those of the cluster"
        raise PipelineError(f"{fault}; {hint}") from None
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray would answer it by itself, without closing the runs of the ledger
