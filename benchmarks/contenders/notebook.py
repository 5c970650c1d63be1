"""The notebook as written: Keras `fit` on float32 NumPy arrays and one-hot labels, with Keras's Adam and default threads."""

import json
import time

import keras
import numpy as np

from benchmarks.contenders.work import CLASSES, HIDDEN_UNITS, Contender, Work, serve


def build_notebook_model(normalization: str) -> keras.Sequential:
    """Build the notebook's network, with Batch Normalization after each ReLU if `normalization` is "batch"."""
    layers: list[keras.Layer] = [keras.Input((32, 32, 3)), keras.layers.Flatten()]
    for units in HIDDEN_UNITS:
        layers.append(keras.layers.Dense(units, activation="relu"))
        if normalization == "batch":
            layers.append(keras.layers.BatchNormalization())
    model = keras.Sequential([*layers, keras.layers.Dense(CLASSES, activation="softmax")])
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def build(work: Work) -> Contender:
    """Call `fit` once a block."""
    model = build_notebook_model(work.normalization)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    for layer, kernel in zip(dense, work.kernels, strict=True):
        layer.kernel.assign(kernel)
    images, labels = work.images.astype("float32") / 255, keras.utils.to_categorical(work.labels, CLASSES)

    def train(block: tuple[np.ndarray, np.ndarray]) -> float:
        history = model.fit(*block, batch_size=work.batch_size, epochs=1, shuffle=False, verbose=0)
        return float(history.history["loss"][0])

    return (lambda order: (images[order], labels[order])), {"train": train}


def train_all(epochs: int) -> None:
    """Do the notebook's five trainings from data/processed in the current folder, and print one JSON line with the seconds of each epoch.

    As in the notebook, the trainings at batch sizes 32, 64 and 128 continue one model.
    """
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
        model.fit(images, labels, batch_size=batch_size, epochs=epochs, validation_split=0.2, verbose=0, callbacks=[clock])
        seconds = [end - start for start, end in zip(moments[::2], moments[1::2], strict=True)]
        results.append({"name": name, "batch_size": batch_size, "first_epoch_s": seconds[0], "epoch_s": seconds})
    print(json.dumps(results))


if __name__ == "__main__":
    serve(build)
