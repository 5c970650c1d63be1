"""Stage `preprocess`: split CIFAR-10 into memory-mappable arrays under data/processed, and profile them."""

import argparse
import hashlib
import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.common.parameters import read_sections
from pipeline.images.arrays import PROCESSED, Examples, save_examples
from pipeline.images.cifar10 import CLASSES, TEST_FILE, TRAIN_FILES, read_records
from pipeline.images.parameters import SplitParameters, SplitSection

RAW = Path("data/raw")


def main() -> None:
    """Read params.yaml and data/raw, and write data/processed."""
    argparse.ArgumentParser(prog="python -m pipeline.preprocess", description=__doc__).parse_args()
    splits = split_examples(_read(TRAIN_FILES), _read((TEST_FILE,)), read_sections(SplitSection).split)
    for name, examples in splits.items():
        _write_examples(PROCESSED / name, examples)
    with replacing(PROCESSED / "profile.json") as path:
        path.write_text(json.dumps(profile(splits), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read(files: tuple[str, ...]) -> Examples:
    images, labels = zip(*(read_records(RAW / name) for name in files), strict=True)
    return Examples(np.concatenate(images), np.concatenate(labels), CLASSES)


def _write_examples(folder: Path, examples: Examples) -> None:
    with replacing(folder) as temporary:
        temporary.mkdir()
        save_examples(examples, temporary)


def split_examples(official_train: Examples, test: Examples, split: SplitParameters) -> dict[str, Examples]:
    """Give `train`, `validation` and `test`, each in the original order.

    Raises:
        PipelineError: `split.validation_fraction` leaves a part empty or, when stratified, without a class.
    """
    train, validation = split_indices(official_train.labels, split)
    return {"train": _take(official_train, train), "validation": _take(official_train, validation), "test": test}


def _take(examples: Examples, indices: NDArray[np.intp]) -> Examples:
    return replace(examples, images=examples.images[indices], labels=examples.labels[indices])


def split_indices(labels: NDArray[np.uint8], split: SplitParameters) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Give the ascending indices of training and of validation examples.

    Raises:
        PipelineError: as `split_examples`.
    """
    train_count = math.floor(len(labels) * (1.0 - split.validation_fraction))  # as Keras's validation_split counts
    if train_count in (0, len(labels)):
        part = "training" if train_count == 0 else "validation"
        raise PipelineError(f"split.validation_fraction: {split.validation_fraction} of {len(labels)} leaves no {part} examples")
    if split.method == "stratified":
        return _stratified(labels, train_count, split)
    indices = np.arange(len(labels))
    return indices[:train_count], indices[train_count:]


def _stratified(labels: NDArray[np.uint8], train_count: int, split: SplitParameters) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    from sklearn.model_selection import train_test_split  # slow to import, and not needed for --help or method `last`

    try:
        train, validation = train_test_split(np.arange(len(labels)), train_size=train_count, stratify=labels, random_state=split.seed)
    except ValueError as error:
        raise PipelineError(f"split.validation_fraction: {split.validation_fraction} cannot be stratified: {error}") from None
    return np.sort(train), np.sort(validation)


def profile(splits: dict[str, Examples]) -> dict[str, Any]:
    """Describe the splits: examples per class, channel statistics, and exact duplicates.

    `channels` holds mean and standard deviation of red, green and blue, scaled to 0..1, for each split
    and for `official_train`, which is `train` and `validation` together.

    `duplicates[split][other]` counts the `images` of `split` that have a twin in `other`: another image there,
    equal in every pixel. Of these, `with_another_label` have a twin that is labelled differently.
    """
    levels = {name: _level_counts(examples.images) for name, examples in splits.items()}
    levels["official_train"] = levels["train"] + levels["validation"]
    fingerprints = {name: _fingerprints(examples) for name, examples in splits.items()}
    return {
        "classes": {name: _class_counts(examples.labels) for name, examples in splits.items()},
        "channels": {name: _channel_statistics(counts) for name, counts in levels.items()},
        "duplicates": {
            name: {other: _count_twins(own, others) for other, others in fingerprints.items()} for name, own in fingerprints.items()
        },
    }


def _class_counts(labels: NDArray[np.uint8]) -> dict[str, int]:
    return dict(zip(CLASSES, np.bincount(labels, minlength=len(CLASSES)).tolist(), strict=True))


def _level_counts(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count how often each channel has each of its levels, int64 `(3, 256)`."""
    return np.stack([np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(images.shape[-1])])


def _channel_statistics(level_counts: NDArray[np.int64]) -> dict[str, list[float]]:
    """Give mean and population standard deviation per channel; only the last steps round."""
    levels = np.arange(256)
    pixels = int(level_counts[0].sum())
    sums = (level_counts @ levels).tolist()
    squares = (level_counts @ levels**2).tolist()
    return {
        "mean": [total / (255 * pixels) for total in sums],
        "sd": [math.sqrt(pixels * square - total**2) / (255 * pixels) for total, square in zip(sums, squares, strict=True)],
    }


def _fingerprints(examples: Examples) -> list[tuple[bytes, int]]:
    digests = (hashlib.sha256(image.tobytes()).digest() for image in examples.images)
    return list(zip(digests, examples.labels.tolist(), strict=True))


def _count_twins(split: list[tuple[bytes, int]], other: list[tuple[bytes, int]]) -> dict[str, int]:
    labels = defaultdict(list)
    for image, label in other:
        labels[image].append(label)
    itself = 1 if split is other else 0
    twins = [(label, labels[image]) for image, label in split if image in labels and len(labels[image]) > itself]
    differing = sum(any(twin != label for twin in twin_labels) for label, twin_labels in twins)
    return {"images": len(twins), "with_another_label": differing}


if __name__ == "__main__":
    run(main)
