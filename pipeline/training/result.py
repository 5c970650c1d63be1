"""What a finished trial leaves: a folder with its history and its weights."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common.files import replacing, sha256_of

HISTORY = "history.csv"
WEIGHTS = "model.weights.h5"
CHECKSUMS = "sha256.json"
FILES = (HISTORY, WEIGHTS, CHECKSUMS)
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # the first bytes of every such file, says its specification
DIVERGED_LOSS = 10 * math.log(10)  # nats: ten times the loss of equal probabilities for ten classes


@dataclass(frozen=True)
class TrialResult:
    """A folder with the history, the weights and the checksums of both."""

    folder: Path

    @property
    def history(self) -> Path:
        """The history's file: one row per epoch, one column per metric."""
        return self.folder / HISTORY

    @property
    def weights(self) -> Path:
        """The file of the last epoch's weights, as Keras writes it."""
        return self.folder / WEIGHTS

    def read_history(self) -> pd.DataFrame:
        """Read the history with every bit of its numbers."""
        return pd.read_csv(self.history)

    def is_whole(self) -> bool:
        """Whether both files are there and as they were written."""
        try:
            return bool(json.loads((self.folder / CHECKSUMS).read_text()) == _checksums(self.folder))
        except (OSError, ValueError):
            return False

    def has_its_formats(self) -> bool:
        """Whether the history is a table of epochs and the weights are HDF5: checksums can be made for anything."""
        try:
            columns = set(self.read_history())
        except ValueError:
            return False
        with self.weights.open("rb") as weights:
            return columns >= {"epoch", "loss"} and weights.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE


def save_result(result: TrialResult, history: pd.DataFrame, save_weights: Callable[[Path], None]) -> None:
    """Write the files; the folder appears only when it is whole."""
    with replacing(result.folder) as temporary:
        temporary.mkdir()
        history.to_csv(temporary / HISTORY, index=False)
        save_weights(temporary / WEIGHTS)
        (temporary / CHECKSUMS).write_text(json.dumps(_checksums(temporary), indent=2) + "\n")


def diverged(history: pd.DataFrame) -> bool:
    """Whether a loss of the trial, in training or in an evaluation, was not finite, or its last training loss is above DIVERGED_LOSS.

    An evaluation's loss alone may be that high: moving averages can spoil it while training goes well.
    """
    # What was not measured (recalibrated, without Batch Normalization) has no accuracy either.
    accuracies = {loss: loss.replace("loss", "accuracy") for loss in map(str, history) if "loss" in loss}
    losses = [history.loc[history[accuracy].notna(), loss] for loss, accuracy in accuracies.items() if accuracy in history]
    return not all(np.isfinite(loss).all() for loss in losses) or bool(history["loss"].iloc[-1] > DIVERGED_LOSS)


def _checksums(folder: Path) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in (HISTORY, WEIGHTS)}
