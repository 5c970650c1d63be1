"""What reports say of the data: examples per class, channel statistics, and exact duplicates."""

import hashlib
import math
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.images.arrays import Examples

Fingerprints = list[tuple[bytes, int]]


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
