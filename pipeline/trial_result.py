"""What a finished trial leaves: a folder with its history and its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.atomic import replacing

FINISHED_TRIALS = Path(".trials")
HISTORY = "history.csv"
WEIGHTS = "model.weights.h5"


@dataclass(frozen=True)
class TrialResult:
    """A folder that holds both files, or does not exist."""

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
        """Whether both files are there."""
        return self.history.is_file() and self.weights.is_file()


def result_of(key: str, root: Path = FINISHED_TRIALS) -> TrialResult:
    """Where the result of the trial with this key is kept until its stage's outputs are written."""
    return TrialResult(root / key)


def save_result(result: TrialResult, history: pd.DataFrame, save_weights: Callable[[Path], None]) -> None:
    """Write both files; the folder appears only when it is whole."""
    with replacing(result.folder) as temporary:
        temporary.mkdir()
        history.to_csv(temporary / HISTORY, index=False)
        save_weights(temporary / WEIGHTS)


def diverged(history: pd.DataFrame) -> bool:
    """Whether training ended because its loss was no longer finite."""
    return not bool(np.isfinite(history["loss"]).all())
