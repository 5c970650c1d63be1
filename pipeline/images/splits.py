"""The training, validation and test examples: how they are split, and their profile, which reports show."""

import hashlib
import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import PipelineError
from pipeline.images.arrays import Examples
from pipeline.images.parameters import SplitParameters

Fingerprints = list[tuple[bytes, int]]


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


def profile_splits(splits: dict[str, Examples]) -> dict[str, Any]:
    """Return the profile of the splits, ready for JSON.

    `classes` holds the number of examples of each class in each split.

    `channels` holds mean and standard deviation of red, green and blue, scaled to 0..1, for each split
    and for `official_train`, which is `train` and `validation` together.

    `duplicates[split][other]` counts the `images` of `split` that have a twin in `other`: another image there,
    equal in every pixel. Of these, `with_another_label` have a twin that is labelled differently.
    """
    # How often each channel has each of its 256 levels, int64 `(3, 256)`.
    levels = {
        name: np.stack([np.bincount(part.images[..., channel].ravel(), minlength=256) for channel in range(3)])
        for name, part in splits.items()
    }
    levels["official_train"] = levels["train"] + levels["validation"]
    fingerprints = {
        name: [(hashlib.sha256(image.tobytes()).digest(), label) for image, label in zip(part.images, part.labels.tolist(), strict=True)]
        for name, part in splits.items()
    }
    return {
        "classes": {
            name: dict(zip(part.classes, np.bincount(part.labels, minlength=len(part.classes)).tolist(), strict=True))
            for name, part in splits.items()
        },
        "channels": {name: _describe_channels(counts) for name, counts in levels.items()},
        "duplicates": {name: {other: _count_twins(own, fingerprints[other]) for other in splits} for name, own in fingerprints.items()},
    }


def _describe_channels(level_counts: NDArray[np.int64]) -> dict[str, list[float]]:
    """Return mean and population standard deviation per channel. Sums are whole numbers, so that only the last steps round."""
    levels = np.arange(256)
    pixels = int(level_counts[0].sum())
    sums = (level_counts @ levels).tolist()
    squares = (level_counts @ levels**2).tolist()
    return {
        "mean": [total / (255 * pixels) for total in sums],
        "sd": [math.sqrt(pixels * square - total**2) / (255 * pixels) for total, square in zip(sums, squares, strict=True)],
    }


def _count_twins(split: Fingerprints, other: Fingerprints) -> dict[str, int]:
    labels = defaultdict(list)
    for image, label in other:
        labels[image].append(label)
    itself = 1 if split is other else 0
    twins = [(label, labels[image]) for image, label in split if image in labels and len(labels[image]) > itself]
    differing = sum(any(twin != label for twin in twin_labels) for label, twin_labels in twins)
    return {"images": len(twins), "with_another_label": differing}
