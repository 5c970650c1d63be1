"""Measure what a Ray cluster costs and gains: `python -m benchmarks.cluster` takes half an hour and writes benchmarks/cluster.json.

All nodes are on this machine. To measure the speed by number of nodes, trials wait instead of computing.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import ROOT, Json, Spread, commit, describe_environment, spread, write_results
from benchmarks.ray_nodes import RayNodes, ray_nodes
from pipeline.cluster.ray_pool import RayPool, Work
from pipeline.common.command import run
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
REPEATS = 3
TRAININGS = 2
IMAGES = {"train": 40_000, "validation": 10_000}


def main() -> None:
    """Measure everything and write cluster.json."""
    argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__).parse_args()
    measured = {"start": measure_start(), **measure_trial(), "nodes": measure_nodes(), "overhead": measure_overhead()}
    write_results(RESULTS, {"environment": describe_environment(), "made_by": commit(), **measured})


@contextmanager
def _pool(cluster: RayNodes, work: Work | None = None) -> Iterator[RayPool]:
    """Connect to the cluster, with arrays of CIFAR-10's size."""
    os.environ["RAY_ADDRESS"] = cluster.address
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        for split, images in IMAGES.items():
            (Path(folder) / split).mkdir()
            np.save(Path(folder) / split / "images.npy", np.zeros((images, *IMAGE_SHAPE), np.uint8))
            np.save(Path(folder) / split / "labels.npy", np.zeros(images, np.uint8))
        with closing(RayPool(Path(folder), Path(folder) / "results", work)) as pool:
            yield pool


@contextmanager
def _waiting_pool(cluster: RayNodes, seconds: float, workers: int) -> Iterator[Callable[[int, int], float]]:
    """Connect to the cluster for trials that only wait, send epochs meanwhile, and leave a result of two small files.

    Give a function that runs a number of trials with a number of epochs, and returns the seconds from the first start to the last
    end. All worker processes have started: each waits in its first trial until there are as many as `workers`.
    """
    with tempfile.TemporaryDirectory(prefix="started-") as started:

        def work(key: str, config: TrialConfig, train: Examples, validation: Examples, results: Path, send: Send) -> None:
            for examples in (train, validation):
                examples.images[:: len(examples.images) // 100].sum()  # read some of the shared memory
            (Path(started) / str(os.getpid())).touch()
            while len(list(Path(started).iterdir())) < workers:
                time.sleep(0.5)
            send(Started(key, "a node"))
            metrics = {f"metric_{number}": 0.5 for number in range(METRICS_PER_EPOCH)}
            history = [{"epoch": float(epoch), **metrics} for epoch in range(1, config.epochs + 1)]
            for epoch in history:
                time.sleep(seconds / len(history))
                send(EpochEnded(key, epoch, seconds / len(history)))
            save_result(result_of(key, results), pd.DataFrame(history), Path.touch)

        with _pool(cluster, work) as pool:

            def run_waiting(trials: int, epochs: int) -> float:
                config = load_parameters().trial_config("baseline", {"epochs": epochs}, seed=0)
                moments = []
                for event in chain.from_iterable(run_trials(pool, {f"{number:064x}": config for number in range(trials)})):
                    moments.append(time.perf_counter())
                    if isinstance(event, Finished):
                        shutil.rmtree(event.result.folder)  # a hundred thousand would use up the disk's inodes
                return moments[-1] - moments[0]

            run_waiting(workers, 1)
            yield run_waiting


def measure_start() -> dict[str, Spread]:
    """Measure the seconds until a cluster can be given trials, and until the first and the second trial of a new node start.

    Connecting sends the code and puts the data into the shared memory of the driver's node. A new node's first trial waits for
    code, data, a worker process and its import of TensorFlow.
    """
    seconds: dict[str, list[float]] = {"connect": [], "first_trial": [], "second_trial": []}
    config = load_parameters().trial_config("baseline", {"epochs": 1, "hidden_units": [1], "training_images": 100}, seed=0)
    for _ in range(REPEATS):
        with ray_nodes(cpus=0) as cluster:  # a new one each time: for seconds Ray would still send trials to a node that has gone
            cluster.add()
            began = time.perf_counter()
            with _pool(cluster) as pool:
                seconds["connect"].append(time.perf_counter() - began)
                for name in ("first_trial", "second_trial"):
                    began = time.perf_counter()
                    events = chain.from_iterable(run_trials(pool, {name: config}))
                    started = [time.perf_counter() for event in events if isinstance(event, Started)]
                    seconds[name].append(started[-1] - began)
    return {name: spread(values) for name, values in seconds.items()}


def measure_trial() -> dict[str, Spread]:
    """Measure the seconds of one of the notebook's trainings with BN, and the megabytes of its result, on a node of one CPU."""
    configs = {str(seed): load_parameters().trial_config("batch_norm", {}, seed) for seed in range(TRAININGS)}
    seconds, megabytes, began = [], [], 0.0
    with ray_nodes() as cluster, _pool(cluster) as pool:
        for event in chain.from_iterable(run_trials(pool, configs)):
            if isinstance(event, Started):
                began = time.perf_counter()
            if isinstance(event, Finished):
                seconds.append(time.perf_counter() - began)
                megabytes.append(sum(path.stat().st_size for path in event.result.folder.iterdir()) / 1e6)
    return {"trial_s": spread(seconds), "result_mb": spread(megabytes)}


def measure_nodes() -> list[Json]:
    """Run trials that wait on clusters of several sizes. Efficiency is the seconds that each CPU has to wait over the median taken."""
    rows = []
    with ray_nodes(cpus=CPUS_PER_NODE) as cluster:
        for count in NODES:
            while len(cluster.nodes) < count:
                cluster.add(cpus=CPUS_PER_NODE)
            cpus, trials = count * CPUS_PER_NODE, count * CPUS_PER_NODE * WAITING_TRIALS_PER_CPU
            print(f"{trials} trials that wait, on {count} nodes", flush=True)
            with _waiting_pool(cluster, SECONDS_OF_A_WAITING_TRIAL, cpus) as run_waiting:
                seconds = spread([run_waiting(trials, EPOCHS) for _ in range(REPEATS)])
            efficiency = WAITING_TRIALS_PER_CPU * SECONDS_OF_A_WAITING_TRIAL / seconds["median"]
            rows.append({"nodes": count, "cpus": cpus, "trials": trials, "seconds": seconds, "efficiency": efficiency})
    return rows


def measure_overhead() -> list[Json]:
    """Run trials that do nothing on one node with two workers, and return the seconds and the milliseconds of each trial."""
    rows = []
    with ray_nodes(cpus=2) as cluster, _waiting_pool(cluster, 0.0, workers=2) as run_waiting:
        for count in TRIALS_TO_DO_NOTHING:
            print(f"{count:,} trials that do nothing", flush=True)
            seconds = run_waiting(count, 1)
            rows.append({"trials": count, "seconds": seconds, "ms_per_trial": 1000 * seconds / count})
    return rows


if __name__ == "__main__":
    run(main)
