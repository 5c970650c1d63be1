"""Whole jobs: the notebook's trainings against `dvc repro` of the same, a full run taken apart, and how cost grows."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.clone import TimedClone, peak_memory_of_workers
from benchmarks.measure import spread
from benchmarks.protocol import ROOT
from pipeline.trials.parameters import load_parameters
from pipeline.workers.local import worker_count

NOTEBOOK_EPOCHS = 2
NOOP_REPEATS = 5
TRAINING_STAGES = ("train", "batch_size_grid")


@contextmanager
def _clone(*, with_data: bool = True) -> Iterator[TimedClone]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        clone = TimedClone(Path(folder) / "clone")
        if with_data:
            clone.copy_data()
        yield clone


def measure_notebook_against_project() -> dict[str, Any]:
    """Time the notebook before and after the project's `dvc repro`, since a machine's speed drifts."""
    before, seconds, after = _measure_notebook(), _measure_same_five(), _measure_notebook()
    both = [before["scaled_s"], after["scaled_s"]]
    return {"notebook": {**before, "scaled_s": mean(both), "scaled_runs_s": both}, "dvc_repro_of_the_same_five": {"seconds": seconds}}


def _measure_notebook() -> dict[str, Any]:
    """Run the notebook's five trainings for a few epochs, and scale them to all of its epochs."""
    epochs = load_parameters(ROOT / "params.yaml").trial.epochs
    command = [sys.executable, "-m", "benchmarks.notebook_job", str(NOTEBOOK_EPOCHS)]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, trainings = time.perf_counter() - began, json.loads(done.stdout.splitlines()[-1])
    start_up = seconds - sum(sum(training["epoch_s"]) for training in trainings)
    trainings = [{"later_epoch_s": median(training.pop("epoch_s")[1:]), **training} for training in trainings]
    scaled = start_up + sum(training["first_epoch_s"] + (epochs - 1) * training["later_epoch_s"] for training in trainings)
    described = {"epochs_run": NOTEBOOK_EPOCHS, "epochs_scaled_to": epochs, "start_up_s": start_up}
    return {**described, "trainings": trainings, "scaled_s": scaled}


def _measure_same_five() -> float:
    """Time `dvc repro` of five distinct trainings, the notebook's: data are there, the ledger is empty."""
    with _clone() as clone:
        clone.change("studies", "train", "seeds", to=[0])
        clone.change("studies", "batch_size_grid", "seeds", to=[1])  # another seed, or the ledger would save the one at 64
        return clone.seconds("dvc", "repro")


def measure_full_repro(evaluation_seconds: dict[str, float]) -> dict[str, Any]:
    """Take a full `dvc repro` apart, download included; evaluation's share comes from its time beside a busy neighbour."""
    with _clone(with_data=False) as clone:
        with peak_memory_of_workers() as peak:
            seconds = clone.seconds("dvc", "repro", "--force")  # the report's files are in git, and would be left as they are
        parts = _take_apart(clone, seconds, evaluation_seconds)
        noop = [clone.seconds("dvc", "repro") for _ in range(NOOP_REPEATS)]
        full = {"seconds": seconds, "trials": len(clone.trial_runs()), "parts": parts, "worker_peak_gb": peak[0]}
        return {"full_repro": full, "noop_repro_s": spread(noop)}


def _take_apart(clone: TimedClone, seconds: float, evaluation_seconds: dict[str, float]) -> dict[str, float]:
    runs, workers = clone.trial_runs(), worker_count()
    parts = dict.fromkeys(("download and checks", "preprocess", "start-up", "idle workers", "MLflow models and results"), 0.0)
    names = {"fetch": "download and checks", "preprocess": "preprocess", "evaluate": "test set and references", "report": "report"}
    for module, began, ended in clone.stages():
        if module not in TRAINING_STAGES:
            parts[names[module]] = ended - began
            continue
        spans = [(run.info.start_time / 1e3, run.info.end_time / 1e3) for run in runs if began <= run.info.start_time / 1e3 < ended]
        first, last = (min(start for start, _ in spans), max(end for _, end in spans)) if spans else (ended, ended)
        parts["start-up"] += first - began
        parts["idle workers"] += (last - first) - sum(end - start for start, end in spans) / workers
        parts["MLflow models and results"] += ended - last
    epochs = {run.info.run_id: clone.epoch_seconds(run) for run in runs}
    in_epochs = sum(map(sum, epochs.values()))
    evaluation = sum(len(epochs[run.info.run_id]) * evaluation_seconds[run.data.params["normalization"]] for run in runs)
    lasted = sum(run.info.end_time - run.info.start_time for run in runs) / 1e3
    parts["training"] = (in_epochs - evaluation) / workers
    parts["evaluation each epoch"] = evaluation / workers
    parts["opening and closing trials"] = (lasted - in_epochs) / workers
    parts["DVC"] = seconds - sum(ended - began for _, began, ended in clone.stages())
    return parts


def measure_growth() -> list[dict[str, Any]]:
    """Time one training stage, ledger off, as one thing grows and the others stay."""
    rows = []
    with _clone() as clone:
        for what, seeds, epochs, workers in _growth():
            clone.change("studies", "train", "seeds", to=list(range(seeds)))
            clone.change("trial", "epochs", to=epochs)
            command = [sys.executable, "-m", "pipeline.train", "batch_norm"]
            seconds = clone.seconds(*command, TRIAL_WORKERS=str(workers), TRIAL_LEDGER="off", DVC_ROOT=str(clone.root))
            rows.append({"what": what, "value": {"seeds": seeds, "epochs": epochs, "workers": workers}[what], "seconds": seconds})
    return rows


def _growth() -> Iterator[tuple[str, int, int, int]]:
    """What grows; seeds, epochs and workers."""
    cores = worker_count()
    yield from (("seeds", seeds * cores, 2, cores) for seeds in (1, 2, 4))
    yield from (("epochs", cores, epochs, cores) for epochs in (2, 4, 8))
    yield from (("workers", 2 * cores, 4, workers) for workers in sorted({1, 2, cores}) if workers <= cores)


def measure_precision() -> list[dict[str, Any]]:
    """Train `train`'s arms in bfloat16 too, and set validation over seeds beside the committed results in float32."""
    committed = json.loads((ROOT / "reports/notebook/metrics.json").read_text())["train"]
    with _clone() as clone:
        clone.change("trial", "precision", to="bfloat16")
        clone.seconds("dvc", "repro", "train")
        trained = {arm: json.loads((clone.root / f"results/train/{arm}/metrics.json").read_text()) for arm in committed}
    measured = {"float32": {arm: committed[arm]["final"] for arm in committed}, "bfloat16": trained}
    return [{"arm": arm, "precision": name, "val_accuracy": measured[name][arm]["val_accuracy"]} for name in measured for arm in committed]
