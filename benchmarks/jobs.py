"""Times whole jobs in a throw-away clone: the notebook's trainings, a full run part by part, growth, precision, instruction sets."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import mean, median

import pandas as pd
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from benchmarks.measure import ROOT, Json, spread, time_action
from benchmarks.steps import INSTRUCTION_SETS
from checks.clone import Clone, clone_commit
from pipeline.common.files import sha256_of
from pipeline.tracking.names import EPOCH_SECONDS, KIND, TRIAL
from pipeline.trials.parameters import load_parameters
from pipeline.workers.local import worker_count

NOTEBOOK_EPOCHS = 2
NOOP_REPEATS = 5
# Notes the first and the last moment of every `python -m pipeline.…` that DVC starts.
CLOCK = """#!/bin/sh
began=$(date +%s.%N)
"{python}" "$@"
code=$?
echo "$2 $began $(date +%s.%N)" >> "{log}"
exit $code
"""
STAGE_PARTS = {
    "fetch": "download and checks",
    "preprocess": "preprocess",
    "evaluate": "test set and references",
    "report": "report",
}

Stage = tuple[str, float, float]  # its module, and the first and the last moment in seconds since 1970


class TimedClone(Clone):
    """A clone of the last commit that records how long each stage takes."""

    def __init__(self, root: Path) -> None:
        super().__init__(clone_commit(root).root)
        bin_folder, self._log = root / ".dvc/tmp/clock", root / ".dvc/tmp/clock.log"
        bin_folder.mkdir(parents=True)
        (bin_folder / "python").write_text(CLOCK.format(python=sys.executable, log=self._log))
        (bin_folder / "python").chmod(0o755)
        self.environment |= {"PATH": f"{bin_folder}:{self.environment['PATH']}", "TRIAL_WORKERS": str(worker_count())}

    def seconds(self, *command: str, **environment: str) -> float:
        """Run a command and return its wall-clock seconds, or raise a PipelineError with the end of its output if it fails."""
        return time_action(lambda: self.succeed(*command, **environment))

    def stages(self) -> list[Stage]:
        """Return every stage that ran, in order."""
        lines = [line.split() for line in self._log.read_text().splitlines()]
        return [(module.removeprefix("pipeline."), float(began), float(ended)) for module, began, ended in lines]

    def trials(self) -> list[tuple[Run, list[float]]]:
        """Return the MLflow run of each trial, and the seconds that each of its epochs took, with its evaluation."""
        client = MlflowClient(f"sqlite:///{self.root}/mlflow.db")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, f"tags.{KIND} = '{TRIAL}'", max_results=1000)
        return [(run, [metric.value for metric in client.get_metric_history(run.info.run_id, EPOCH_SECONDS)]) for run in runs]


@contextmanager
def _timed_clone(*, with_data: bool = True) -> Iterator[TimedClone]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        clone = TimedClone(Path(folder) / "clone")
        if with_data:
            for name in ("raw", "processed"):
                shutil.copytree(ROOT / "data" / name, clone.root / "data" / name)
            clone.succeed("dvc", "repro", "preprocess")
        yield clone


def measure_notebook_against_project() -> Json:
    """Time the notebook's five trainings before and after a `dvc repro` of the same, because a machine's speed drifts."""
    before = _measure_notebook()
    with _timed_clone() as clone:  # it has data and an empty ledger
        clone.change("studies", "train", "seeds", to=[0])
        clone.change("studies", "batch_size_grid", "seeds", to=[1])  # with seed 0, the ledger would spare the training at 64
        seconds = clone.seconds("dvc", "repro")
    both = [before["scaled_s"], _measure_notebook()["scaled_s"]]
    return {"notebook": {**before, "scaled_s": mean(both), "scaled_runs_s": both}, "dvc_repro_of_the_same_five": {"seconds": seconds}}


def _measure_notebook() -> Json:
    """Run the notebook's trainings for a few epochs, and scale the seconds to all of its epochs."""
    epochs, said = load_parameters(ROOT / "params.yaml").trial.epochs, []
    command = [sys.executable, "-c", f"from benchmarks.contenders.notebook import train_all; train_all({NOTEBOOK_EPOCHS})"]
    seconds = time_action(lambda: said.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout))
    trainings = json.loads(said[0].splitlines()[-1])
    start_up = seconds - sum(sum(training["epoch_s"]) for training in trainings)
    trainings = [{"later_epoch_s": median(training.pop("epoch_s")[1:]), **training} for training in trainings]
    scaled = start_up + sum(training["first_epoch_s"] + (epochs - 1) * training["later_epoch_s"] for training in trainings)
    described = {"epochs_run": NOTEBOOK_EPOCHS, "epochs_scaled_to": epochs, "start_up_s": start_up}
    return {**described, "trainings": trainings, "scaled_s": scaled}


def measure_full_run(evaluation_seconds: Mapping[str, float]) -> Json:
    """Time a full `dvc repro` part by part, download included. `evaluation_seconds`: of one evaluation, by normalization."""
    peak_gb = 0.0
    with _timed_clone(with_data=False) as clone, ThreadPoolExecutor(1) as thread:
        run = thread.submit(clone.seconds, "dvc", "repro", "--force")  # otherwise DVC would take the report from git as it is
        while wait([run], timeout=0.5).not_done:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it has ended
                    if "multiprocessing.forkserver" in " ".join(process.cmdline()):  # a fork server, or a worker of it
                        peak_gb = max(peak_gb, process.memory_info().rss / 1e9)
        seconds, trials = run.result(), clone.trials()
        parts = split_into_parts(seconds, clone.stages(), trials, evaluation_seconds)
        noop = [clone.seconds("dvc", "repro") for _ in range(NOOP_REPEATS)]
    full = {"seconds": seconds, "trials": len(trials), "parts": parts, "worker_peak_gb": peak_gb}
    return {"full_repro": full, "noop_repro_s": spread(noop)}


def split_into_parts(
    seconds: float, stages: list[Stage], trials: list[tuple[Run, list[float]]], evaluation_seconds: Mapping[str, float]
) -> dict[str, float]:
    """Split the seconds of a full run into parts that add up to it."""
    workers = worker_count()
    parts = dict.fromkeys((*STAGE_PARTS.values(), "start-up", "idle workers", "MLflow models and results"), 0.0)
    spans = [(run.info.start_time / 1e3, run.info.end_time / 1e3) for run, _ in trials]
    for module, began, ended in stages:
        if module in STAGE_PARTS:
            parts[STAGE_PARTS[module]] += ended - began
            continue
        inside = [span for span in spans if began <= span[0] < ended]
        first, last = min((start for start, _ in inside), default=ended), max((end for _, end in inside), default=ended)
        parts["start-up"] += first - began
        parts["idle workers"] += (last - first) - sum(end - start for start, end in inside) / workers
        parts["MLflow models and results"] += ended - last
    in_epochs = sum(sum(epochs) for _, epochs in trials)
    evaluation = sum(len(epochs) * evaluation_seconds[run.data.params["normalization"]] for run, epochs in trials)
    return {
        **parts,
        "training": (in_epochs - evaluation) / workers,
        "evaluation each epoch": evaluation / workers,
        "opening and closing trials": (sum(end - start for start, end in spans) - in_epochs) / workers,
        "DVC": seconds - sum(ended - began for _, began, ended in stages),
    }


def measure_growth() -> list[Json]:
    """Time one training stage without the ledger, as seeds, epochs or workers grow and the others stay."""
    rows = []
    with _timed_clone() as clone:
        for what, seeds, epochs, workers in growth_points(worker_count()):
            clone.change("studies", "train", "seeds", to=list(range(seeds)))
            clone.change("trial", "epochs", to=epochs)
            variables = {"TRIAL_WORKERS": str(workers), "TRIAL_LEDGER": "off", "DVC_ROOT": str(clone.root)}
            seconds = clone.seconds(sys.executable, "-m", "pipeline.train", "train", "batch_norm", **variables)
            rows.append({"what": what, "value": {"seeds": seeds, "epochs": epochs, "workers": workers}[what], "seconds": seconds})
    return rows


def growth_points(cores: int) -> list[tuple[str, int, int, int]]:
    """Return what grows, and the numbers of seeds, epochs and workers."""
    return [
        *(("seeds", seeds * cores, 2, cores) for seeds in (1, 2, 4)),
        *(("epochs", cores, epochs, cores) for epochs in (2, 4, 8)),
        *(("workers", 2 * cores, 4, workers) for workers in sorted({1, 2, cores}) if workers <= cores),
    ]


def measure_precision() -> list[Json]:
    """Train the arms of `train` in bfloat16 too. Return their validation accuracies beside the committed ones in float32."""
    committed = json.loads((ROOT / "reports/notebook/metrics.json").read_text())["train"]
    with _timed_clone() as clone:
        clone.change("trial", "precision", to="bfloat16")
        clone.succeed("dvc", "repro", "train")
        trained = {arm: json.loads((clone.root / f"results/train/{arm}/metrics.json").read_text()) for arm in committed}
    measured = {"float32": {arm: committed[arm]["final"] for arm in committed}, "bfloat16": trained}
    return [{"arm": arm, "precision": name, "val_accuracy": measured[name][arm]["val_accuracy"]} for name in measured for arm in committed]


def measure_instruction_sets() -> Json:
    """Train both of the notebook's networks with each set of instructions, and compare every epoch with that of all instructions."""
    rows: list[Json] = []
    reference: dict[str, pd.DataFrame] = {}
    with _timed_clone() as clone:
        clone.change("studies", "train", "seeds", to=[0])
        for setting, variables in INSTRUCTION_SETS.items():
            for arm, normalization in {"baseline": "none", "batch_norm": "batch"}.items():
                # The other arm may be trained ahead meanwhile.
                clone.succeed("python", "-m", "pipeline.train", "train", arm, DVC_ROOT=str(clone.root), **variables)
                results = clone.root / "results/train" / arm
                history = pd.read_csv(results / "history.csv")
                difference = largest_difference(history, reference.setdefault(arm, history))
                weights = sha256_of(results / "weights/seed-0.weights.h5")
                described = {"setting": setting, "arm": arm, "normalization": normalization, "weights": weights}
                rows.append({**described, "largest_difference": difference})
    epochs = load_parameters(ROOT / "params.yaml").trial.epochs
    largest = pd.DataFrame([row["largest_difference"] for row in rows]).max()
    return {"epochs": epochs, "settings": INSTRUCTION_SETS, "trainings": rows, "largest_difference": largest.to_dict()}


def largest_difference(history: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    """Return the largest absolute difference of each metric over all epochs."""
    metrics = history.columns.difference(["arm", "batch_size", "seed", "epoch"], sort=False)
    return {str(name): float(value) for name, value in (history[metrics] - reference[metrics]).abs().max().items()}
