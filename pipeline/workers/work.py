"""What a worker does with a trial, wherever it runs: train, send events, write the result."""

import platform
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pipeline.images.arrays import Examples
from pipeline.training.config import TrialConfig
from pipeline.training.result import TrialResult, save_result
from pipeline.workers.events import EpochEnded, Started

Send = Callable[[Started | EpochEnded], None]

FINISHED_TRIALS = Path(".trials")


def result_of(key: str, root: Path = FINISHED_TRIALS) -> TrialResult:
    """Return where the result of the trial with this key is kept until its stage's outputs are written."""
    return TrialResult(root / key)


def work(key: str, config: TrialConfig, train: Examples, validation: Examples, results: Path, send: Send) -> None:
    """Run the trial and write its result into the folder `results`; the process computes deterministically already."""
    from pipeline.training import trial  # here, since the driver does without TensorFlow

    history: list[dict[str, float]] = []
    began = time.perf_counter()

    def on_epoch(metrics: dict[str, float]) -> None:
        nonlocal began
        now = time.perf_counter()
        history.append(metrics)
        send(EpochEnded(key, metrics, now - began))
        began = now

    send(Started(key, platform.node()))
    model = trial.run_trial(config, train, validation, on_epoch)
    save_result(result_of(key, results), pd.DataFrame(history), model.save_weights)
