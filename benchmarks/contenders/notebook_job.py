"""The notebook's five trainings in its settings but our own code. Prints one JSON line with the seconds of every epoch.

As in the notebook, the trainings at batch sizes 32, 64 and 128 continue one model.
"""

import json
import sys
import time

import keras
import numpy as np

from benchmarks.contenders.notebook import build_notebook_model
from benchmarks.contenders.work import CLASSES


def main() -> None:
    """Train for the number of epochs on the command line, from data/processed in the current folder."""
    images, labels = (
        np.concatenate([np.load(f"data/processed/{split}/{name}.npy") for split in ("train", "validation")])
        for name in ("images", "labels")
    )
    images, labels = images.astype("float32") / 255, keras.utils.to_categorical(labels, CLASSES)
    continued = build_notebook_model("batch")
    trainings = [
        ("baseline", 64, build_notebook_model("none")),
        ("batch_norm", 64, build_notebook_model("batch")),
        *[(f"batch_norm continued at {batch_size}", batch_size, continued) for batch_size in (32, 64, 128)],
    ]
    results = []
    for name, batch_size, model in trainings:
        moments: list[float] = []  # the start and the end, validation included, of each epoch
        clock = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda *_, to=moments: to.append(time.perf_counter()),
            on_epoch_end=lambda *_, to=moments: to.append(time.perf_counter()),
        )
        model.fit(images, labels, batch_size=batch_size, epochs=int(sys.argv[1]), validation_split=0.2, verbose=0, callbacks=[clock])
        seconds = [end - start for start, end in zip(moments[::2], moments[1::2], strict=True)]
        results.append({"name": name, "batch_size": batch_size, "first_epoch_s": seconds[0], "epoch_s": seconds})
    print(json.dumps(results))


if __name__ == "__main__":
    main()
