"""The notebook's five trainings, in its settings but our own code; prints one JSON line with the seconds of every epoch.

As in the notebook, the batch sizes 32, 64 and 128 go on training one model.
"""

import json
import sys
import time
from typing import Any

import keras
import numpy as np

from benchmarks.contenders.notebook import build_notebook_model
from benchmarks.protocol import ROOT
from benchmarks.work import CLASSES


class EpochSeconds(keras.callbacks.Callback):  # type: ignore[misc]  # Keras carries no types
    """How long each epoch took, with its validation."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's signature
        """Start the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._began)


def main() -> None:
    """Train for as many epochs as the command line says."""
    epochs = int(sys.argv[1])
    processed = ROOT / "data/processed"
    parts = [np.load(processed / split / f"{name}.npy") for name in ("images", "labels") for split in ("train", "validation")]
    images = np.concatenate(parts[:2]).astype("float32") / 255
    labels = keras.utils.to_categorical(np.concatenate(parts[2:]), CLASSES)
    continued = build_notebook_model("batch")
    trainings = [
        ("baseline", 64, build_notebook_model("none")),
        ("batch_norm", 64, build_notebook_model("batch")),
        *[(f"batch_norm continued at {batch_size}", batch_size, continued) for batch_size in (32, 64, 128)],
    ]
    results = []
    for name, batch_size, model in trainings:
        clock = EpochSeconds()
        model.fit(images, labels, batch_size=batch_size, epochs=epochs, validation_split=0.2, verbose=0, callbacks=[clock])
        results.append({"name": name, "batch_size": batch_size, "first_epoch_s": clock.seconds[0], "epoch_s": clock.seconds})
    print(json.dumps(results))


if __name__ == "__main__":
    main()
