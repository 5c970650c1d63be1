"""How the official training set is split into training and validation examples."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import PipelineError
from pipeline.images.arrays import Examples
from pipeline.images.parameters import SplitParameters


def split_examples(official_train: Examples, test: Examples, split: SplitParameters) -> dict[str, Examples]:
    """Return `train`, `validation` and `test`, each in the original order.

    Raises:
        PipelineError: `split.validation_fraction` leaves a part empty or, when stratified, without a class.
    """
    parts = zip(("train", "validation"), split_indices(official_train.labels, split), strict=True)
    taken = {name: replace(official_train, images=official_train.images[at], labels=official_train.labels[at]) for name, at in parts}
    return {**taken, "test": test}


def split_indices(labels: NDArray[np.uint8], split: SplitParameters) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the ascending indices of training and of validation examples. Raises as `split_examples`."""
    indices = np.arange(len(labels))
    train_count = math.floor(len(labels) * (1.0 - split.validation_fraction))  # as Keras's validation_split counts
    if train_count in (0, len(labels)):
        part = "training" if train_count == 0 else "validation"
        raise PipelineError(f"split.validation_fraction: {split.validation_fraction} of {len(labels)} leaves no {part} examples")
    if split.method == "last":
        return indices[:train_count], indices[train_count:]
    from sklearn.model_selection import train_test_split  # slow to import, and not needed for --help or method `last`

    try:
        train, validation = train_test_split(indices, train_size=train_count, stratify=labels, random_state=split.seed)
    except ValueError as error:
        raise PipelineError(f"split.validation_fraction: {split.validation_fraction} cannot be stratified: {error}") from None
    return np.sort(train), np.sort(validation)
