"""What a Ray cluster costs and gives: `python -m benchmarks.cluster` takes half an hour and writes benchmarks/cluster.json.

Every node is on this machine: where speed by number of nodes is measured, trials wait in place of computing.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.ledger import described
from benchmarks.measure import Spread, spread
from benchmarks.protocol import ROOT
from benchmarks.ray_nodes import RayNodes, ray_nodes
from pipeline.cluster.ray_pool import RayPool, Work
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.images.arrays import Examples
from pipeline.images.dataset import IMAGE_SHAPE
from pipeline.training.config import TrialConfig
from pipeline.training.result import save_result
from pipeline.trials.parameters import load_parameters
from pipeline.workers.events import EpochEnded, Finished, Started
from pipeline.workers.pool import run_trials
from pipeline.workers.work import Send, result_of

RESULTS = ROOT / "benchmarks/cluster.json"
EPOCHS = 20
METRICS_PER_EPOCH = 20
TRIALS_TO_DO_NOTHING = (1_000, 10_000, 100_000)
NODES = (1, 2, 4, 8)
CPUS_PER_NODE = 4
SECONDS_OF_A_WAITING_TRIAL = 4.0
WAITING_TRIALS_PER_CPU = 4
SECONDS_BETWEEN_LOOKS = 0.5
TRAINING_IMAGES, VALIDATION_IMAGES = 40_000, 10_000


def main() -> None:
    """Measure all, and write cluster.json, or print what was measured quickly."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little of each, in two minutes; prints, and writes nothing")
    if parser.parse_args().quick:
        nodes = measure_nodes((1, 2), seconds_each=1.0, repeats=1)
        print(json.dumps({"start": measure_start(1), "overhead": measure_overhead((100, 1_000)), "nodes": nodes}, indent=1))
        return
    results = {
        **described(),
        "start": measure_start(),
        **measure_trial(),
        "nodes": measure_nodes(),
        "overhead": measure_overhead(),
    }
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def work_that_takes(seconds: float, workers: int, meeting: Path) -> Work:
    """A trial that only waits, tells of its epochs meanwhile, and leaves a result of two small files.

    The first trial of each worker process waits until as many workers have one: they leave a file each in the folder `meeting`.
    """

    def work(key: str, config: TrialConfig, train: Examples, validation: Examples, results: Path, send: Send) -> None:
        _touch(train, validation)
        (meeting / str(os.getpid())).touch()
        while len(list(meeting.iterdir())) < workers:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        send(Started(key, "a node"))
        metrics = {f"metric_{number}": 0.5 for number in range(METRICS_PER_EPOCH)}
        history = [{"epoch": float(epoch), **metrics} for epoch in range(1, config.epochs + 1)]
        for epoch in history:
            time.sleep(seconds / len(history))
            send(EpochEnded(key, epoch, seconds / len(history)))
        save_result(result_of(key, results), pd.DataFrame(history), Path.touch)

    return work


def _touch(*splits: Examples) -> None:
    for examples in splits:
        examples.images[:: len(examples.images) // 100].sum()


def run_waiting(pool: RayPool, *, trials: int, epochs: int) -> float:
    """Run trials that wait; return the seconds from the first start to the last end."""
    config = load_parameters().trial_config("baseline", {"epochs": epochs}, seed=0)
    ended, began, finished = time.perf_counter(), None, 0
    for event in chain.from_iterable(run_trials(pool, {f"{number:064x}": config for number in range(trials)})):
        began = began or time.perf_counter()
        if isinstance(event, Finished):
            finished += 1
            shutil.rmtree(event.result.folder)  # a hundred thousand would fill the disk's table of files
        ended = time.perf_counter()
    if finished != trials or began is None:
        raise PipelineError(f"{finished} of {trials} trials finished")
    return ended - began


@contextmanager
def open_waiting_crew(cluster: RayNodes, seconds: float, workers: int) -> Iterator[RayPool]:
    """Connect to the cluster for trials that wait, and have every worker process started."""
    with (
        tempfile.TemporaryDirectory(prefix="meeting-") as meeting,
        open_crew(cluster, work_that_takes(seconds, workers, Path(meeting))) as pool,
    ):
        run_waiting(pool, trials=workers, epochs=1)
        yield pool


@contextmanager
def open_crew(cluster: RayNodes, work: Work | None = None) -> Iterator[RayPool]:
    """Connect to the cluster, with arrays of CIFAR-10's size."""
    os.environ["RAY_ADDRESS"] = cluster.address
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        for split, images in {"train": TRAINING_IMAGES, "validation": VALIDATION_IMAGES}.items():
            (Path(folder) / split).mkdir()
            np.save(Path(folder) / split / "images.npy", np.zeros((images, *IMAGE_SHAPE), np.uint8))
            np.save(Path(folder) / split / "labels.npy", np.zeros(images, np.uint8))
        with closing(RayPool(Path(folder), Path(folder) / "results", work)) as pool:
            yield pool


def measure_overhead(counts: tuple[int, ...] = TRIALS_TO_DO_NOTHING) -> list[dict[str, float]]:
    """Run trials that do nothing on one node with two workers: for each number of trials, the seconds and the milliseconds of each."""
    rows = []
    with ray_nodes(cpus=2) as cluster, open_waiting_crew(cluster, 0.0, workers=2) as pool:
        for count in counts:
            print(f"{count:,} trials that do nothing", flush=True)
            seconds = run_waiting(pool, trials=count, epochs=1)
            rows.append({"trials": count, "seconds": seconds, "ms_per_trial": 1000 * seconds / count})
    return rows


def measure_nodes(
    nodes: tuple[int, ...] = NODES, seconds_each: float = SECONDS_OF_A_WAITING_TRIAL, repeats: int = 3
) -> list[dict[str, float | Spread]]:
    """Run trials that wait on clusters of several sizes; efficiency is the time that each CPU has to wait over the median time taken."""
    rows: list[dict[str, float | Spread]] = []
    with ray_nodes(cpus=CPUS_PER_NODE) as cluster:
        for count in nodes:
            while len(cluster.nodes) < count:
                cluster.add(cpus=CPUS_PER_NODE)
            cpus = count * CPUS_PER_NODE
            trials = WAITING_TRIALS_PER_CPU * cpus
            print(f"{trials} trials that wait, on {count} nodes", flush=True)
            with open_waiting_crew(cluster, seconds_each, workers=cpus) as pool:
                seconds = spread([run_waiting(pool, trials=trials, epochs=EPOCHS) for _ in range(repeats)])
            efficiency = WAITING_TRIALS_PER_CPU * seconds_each / seconds["median"]
            rows.append({"nodes": count, "cpus": cpus, "trials": trials, "seconds": seconds, "efficiency": efficiency})
    return rows


def measure_start(repeats: int = 3) -> dict[str, Spread]:
    """Seconds until a cluster can be given trials, and until the first and the second trial of a new node begin.

    Connecting sends the code and puts the data into the shared memory of the driver's node; a new node's first trial waits for
    code, data, a worker process and its import of TensorFlow.
    """
    seconds: dict[str, list[float]] = {"connect": [], "first_trial": [], "second_trial": []}
    for _ in range(repeats):
        with ray_nodes(cpus=0) as cluster:  # each time another: for seconds Ray would still send trials to a node that has gone
            cluster.add()
            began = time.perf_counter()
            with open_crew(cluster) as pool:
                seconds["connect"].append(time.perf_counter() - began)
                for name in ("first_trial", "second_trial"):
                    seconds[name].append(_seconds_to_start(pool, name))
    return {name: spread(values) for name, values in seconds.items()}


def measure_trial(repeats: int = 2) -> dict[str, Spread]:
    """Seconds of one of the notebook's trainings with BN, and megabytes of what comes back of it, on a node of one CPU."""
    configs = {str(seed): load_parameters().trial_config("batch_norm", {}, seed) for seed in range(repeats)}
    seconds, megabytes, began = [], [], 0.0
    with ray_nodes() as cluster, open_crew(cluster) as pool:
        for event in chain.from_iterable(run_trials(pool, configs)):
            if isinstance(event, Started):
                began = time.perf_counter()
            if isinstance(event, Finished):
                seconds.append(time.perf_counter() - began)
                megabytes.append(sum(path.stat().st_size for path in event.result.folder.iterdir()) / 1e6)
    return {"trial_s": spread(seconds), "result_mb": spread(megabytes)}


def _seconds_to_start(pool: RayPool, name: str) -> float:
    config = load_parameters().trial_config("baseline", {"epochs": 1, "hidden_units": [1], "training_images": 100}, seed=0)
    began, started = time.perf_counter(), float("nan")
    for event in chain.from_iterable(run_trials(pool, {name: config})):
        if isinstance(event, Started):
            started = time.perf_counter() - began
    return started


if __name__ == "__main__":
    run(main)
