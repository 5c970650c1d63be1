"""How results and speed change when TensorFlow may not use all of the processor's instructions."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.clone import TimedClone
from benchmarks.measure import spread
from benchmarks.protocol import Process
from benchmarks.steps import Setup, start, together, work_of
from pipeline.trials.parameters import load_parameters


def _at_most(instructions: str) -> dict[str, str]:
    # oneDNN reads the first; the copy of it that multiplies for Eigen knows only the second, older name.
    return {"ONEDNN_MAX_CPU_ISA": instructions, "DNNL_MAX_CPU_ISA": instructions}


EVERYTHING = "everything"
SETTINGS: dict[str, dict[str, str]] = {
    EVERYTHING: {},
    "at most AVX-512": _at_most("AVX512_CORE"),
    "at most AVX2": _at_most("AVX2"),
    "oneDNN off": {"TF_ENABLE_ONEDNN_OPTS": "0"},
    "oneDNN off, at most AVX2": {"TF_ENABLE_ONEDNN_OPTS": "0", **_at_most("AVX2")},
}
ARMS = {"baseline": "none", "batch_norm": "batch"}
SEED = 0


def measure_steps(folder: Path, batch_size: int, normalization: str, repeats: int) -> list[dict[str, Any]]:
    """Measure a training step under each setting, in turn."""
    work = work_of(folder, batch_size, normalization)
    with ExitStack() as stack:
        crews: dict[str, list[Process]] = {}
        for name, variables in SETTINGS.items():
            with _set(variables):
                crews[name] = start(Setup("project", 1, 1), work, stack)
        rounds = [{name: together(crew, "train", block)[0]["seconds"] for name, crew in crews.items()} for block in range(repeats + 1)]
    milliseconds = 1e3 * batch_size / work.images_per_block
    return [
        {"setting": name, "normalization": normalization, "step_ms": spread([one[name] * milliseconds for one in rounds[1:]])}
        for name in SETTINGS
    ]


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    os.environ |= variables
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def measure_results() -> dict[str, Any]:
    """Train both of the notebook's models under each setting, and compare every epoch with what everything gives."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        clone = TimedClone(Path(folder) / "clone")
        clone.copy_data()
        clone.change("studies", "train", "seeds", to=[SEED])
        trained = {(name, arm): _train(clone, arm, variables) for name, variables in SETTINGS.items() for arm in ARMS}
    rows = [
        {
            "setting": name,
            "arm": arm,
            "normalization": ARMS[arm],
            "weights": weights,
            "largest_difference": _largest_difference(history, trained[EVERYTHING, arm][0]),
        }
        for (name, arm), (history, weights) in trained.items()
    ]
    differences = pd.DataFrame([row["largest_difference"] for row in rows]).max()
    return {
        "epochs": load_parameters().trial.epochs,
        "settings": SETTINGS,
        "trainings": rows,
        "largest_difference": {str(metric): float(value) for metric, value in differences.items()},
    }


def _train(clone: TimedClone, arm: str, variables: Mapping[str, str]) -> tuple[pd.DataFrame, str]:
    """Give the history and the SHA-256 of the weights; the other arm may be trained ahead meanwhile."""
    clone.succeed("python", "-m", "pipeline.train", arm, DVC_ROOT=str(clone.root), **variables)
    results = clone.root / "results/train" / arm
    weights = results / f"weights/seed-{SEED}.weights.h5"
    return pd.read_csv(results / "history.csv"), hashlib.sha256(weights.read_bytes()).hexdigest()


def _largest_difference(history: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    metrics = [name for name in history if name not in ("arm", "batch_size", "seed", "epoch")]
    return {str(name): float((history[name] - reference[name]).abs().max()) for name in metrics}
