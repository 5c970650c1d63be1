"""The notebook as written: Keras `fit` on float32 NumPy arrays and one-hot labels, with Keras's Adam and default threads."""

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


if __name__ == "__main__":
    serve(build)
