"""The stage `preprocess`: splits, files and the profile."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from checks.clone import ROOT
from checks.synthetic import make_files, write_folder
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.images.arrays import Examples, load_examples
from pipeline.images.cifar10 import CIFAR10
from pipeline.images.parameters import SplitParameters
from pipeline.images.splits import profile_splits, split_examples, split_indices
from pipeline.preprocess import main

PROCESSED = Path("data/processed")


def split(method="last", validation_fraction=0.2, seed=0):
    return SplitParameters(method=method, validation_fraction=validation_fraction, seed=seed)


def labels_of(*counts: int):
    return np.repeat(np.arange(len(counts)), counts).astype(np.uint8)


def examples(levels, labels):
    """Images of one grey level each."""
    images = np.repeat(np.array(levels, dtype=np.uint8), 32 * 32 * 3).reshape(-1, 32, 32, 3)
    return Examples(images, np.array(labels, dtype=np.uint8), CIFAR10.classes)


@pytest.mark.parametrize(
    ("count", "fraction", "train_count"), [(50_000, 0.2, 40_000), (10, 0.25, 7), (10, 0.5, 5), (3, 0.5, 1), (10, 0.3, 7), (10, 0.1, 9)]
)
def test_last_takes_as_many_from_the_end_as_keras_does(count, fraction, train_count):
    train, validation = split_indices(np.zeros(count, dtype=np.uint8), split(validation_fraction=fraction))
    np.testing.assert_array_equal(train, np.arange(train_count))
    np.testing.assert_array_equal(validation, np.arange(train_count, count))


def test_stratified_keeps_shares_order_and_every_example():
    labels = np.random.default_rng(0).permutation(labels_of(100, 50, 50))
    train, validation = split_indices(labels, split("stratified"))
    np.testing.assert_array_equal(np.bincount(labels[train]), [80, 40, 40])
    np.testing.assert_array_equal(np.bincount(labels[validation]), [20, 10, 10])
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(200))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()


def test_stratified_depends_on_the_seed_alone():
    labels = labels_of(50, 50)
    first, again, other = (split_indices(labels, split("stratified", seed=seed))[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("method", ["last", "stratified"])
@pytest.mark.parametrize(("fraction", "part"), [(0.99, "training"), (1e-18, "validation")])
def test_empty_part_is_refused(method, fraction, part):
    with pytest.raises(PipelineError, match=rf"split\.validation_fraction: .* leaves no {part} examples"):
        split_indices(labels_of(5, 5), split(method, validation_fraction=fraction))


@pytest.mark.parametrize(("counts", "fraction"), [((19, 1), 0.5), ((10, 10, 10), 0.05), ((10, 10, 10), 0.95)])
def test_too_few_of_a_class_to_stratify_is_refused(counts, fraction):
    with pytest.raises(PipelineError, match=r"split\.validation_fraction: .* cannot be stratified"):
        split_indices(labels_of(*counts), split("stratified", validation_fraction=fraction))


def test_split_leaves_test_alone_and_keeps_images_with_their_labels():
    train, test = examples(range(10), range(10)), examples([200], [3])
    splits = split_examples(train, test, split())
    assert splits["test"] is test
    assert splits["train"].images[:, 0, 0, 0].tolist() == splits["train"].labels.tolist() == list(range(8))
    assert splits["validation"].images[:, 0, 0, 0].tolist() == splits["validation"].labels.tolist() == [8, 9]


def test_profile_counts_classes():
    counts = profile_splits({"train": examples([1, 2, 3], [0, 0, 9]), "validation": examples([4], [1]), "test": examples([5], [1])})[
        "classes"
    ]
    assert {name: count for name, count in counts["train"].items() if count} == {"airplane": 2, "truck": 1}
    assert sum(counts["validation"].values()) == 1


def test_profile_statistics_agree_with_numpy():
    random = np.random.default_rng(0)
    splits = {
        name: Examples(random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.zeros(count, dtype=np.uint8), CIFAR10.classes)
        for name, count in {"train": 5, "validation": 3, "test": 2}.items()
    }
    images = {name: part.images for name, part in splits.items()}
    images["official_train"] = np.concatenate([images["train"], images["validation"]])
    channels = profile_splits(splits)["channels"]
    assert channels.keys() == images.keys()
    for name, part in images.items():
        np.testing.assert_allclose(channels[name]["mean"], (part / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(channels[name]["sd"], (part / 255).std(axis=(0, 1, 2)), rtol=1e-12)


def test_profile_of_one_colour_has_no_deviation():
    splits = {name: examples([7, 7, 7], [0, 0, 0]) for name in ("train", "validation", "test")}
    assert profile_splits(splits)["channels"]["official_train"] == {"mean": [7 / 255] * 3, "sd": [0.0] * 3}


def test_profile_counts_twins_within_and_across_splits():
    duplicates = profile_splits(
        {
            "train": examples([1, 1, 1, 2, 2, 3], [0, 0, 5, 6, 6, 7]),
            "validation": examples([1, 3, 4], [0, 8, 9]),
            "test": examples([5], [0]),
        }
    )["duplicates"]
    assert duplicates["train"]["train"] == {"images": 5, "with_another_label": 3}
    assert duplicates["train"]["validation"] == {"images": 4, "with_another_label": 2}
    assert duplicates["validation"]["train"] == {"images": 2, "with_another_label": 2}
    assert duplicates["validation"]["validation"] == duplicates["test"]["train"] == {"images": 0, "with_another_label": 0}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["preprocess"])
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    write_folder(Path("data/raw"), make_files(images_per_file=20))
    return tmp_path


def change_split(**changes):
    yaml = YAML()
    parameters = yaml.load(Path("params.yaml"))
    parameters["split"].update(changes)
    yaml.dump(parameters, Path("params.yaml"))


def processed_bytes():
    return {path: path.read_bytes() for path in sorted(PROCESSED.rglob("*")) if path.is_file()}


def test_stage_writes_memory_mappable_arrays_of_the_raw_examples(project):
    main()
    parts = [np.load(PROCESSED / name / "images.npy", mmap_mode="r") for name in ("train", "validation", "test")]
    labels = [np.load(PROCESSED / name / "labels.npy", mmap_mode="r") for name in ("train", "validation", "test")]
    assert [part.shape for part in parts] == [(80, 32, 32, 3), (20, 32, 32, 3), (20, 32, 32, 3)]
    assert all(part.dtype == np.uint8 and part.flags.c_contiguous and isinstance(part, np.memmap) for part in parts)
    raw = CIFAR10.read_examples(CIFAR10.files)
    np.testing.assert_array_equal(np.concatenate(parts), raw.images)
    np.testing.assert_array_equal(np.concatenate(labels), raw.labels)
    assert all(part.dtype == np.uint8 for part in labels)


def test_stage_writes_nothing_else(project):
    main()
    names = {path.relative_to(PROCESSED).as_posix() for path in processed_bytes()}
    arrays = {f"{part}/{file}" for part in ("train", "validation", "test") for file in ("images.npy", "labels.npy", "classes.json")}
    assert names == arrays | {"profile.json"}


@pytest.mark.parametrize("method", ["last", "stratified"])
def test_stage_writes_the_same_bytes_again(project, method):
    change_split(method=method)
    main()
    first = processed_bytes()
    main()
    assert processed_bytes() == first


def test_profile_is_sorted_json_and_names_data_set_and_split(project):
    change_split(method="stratified", seed=3)
    main()
    text = (PROCESSED / "profile.json").read_text()
    profile = json.loads(text)
    assert text == json.dumps(profile, indent=2, sort_keys=True) + "\n"
    assert profile["dataset"] == {"name": "cifar10", "title": "CIFAR-10", "home": CIFAR10.home, "citation": CIFAR10.citation}
    assert profile["split"] == {"method": "stratified", "validation_fraction": 0.2, "seed": 3}


def test_other_sections_of_the_parameters_are_not_looked_at(project):
    Path("params.yaml").write_text("data: {dataset: cifar10}\nsplit: {method: last, validation_fraction: 0.2, seed: 0}\n")
    main()
    assert load_examples("train").classes == CIFAR10.classes


def test_missing_file_is_named_with_what_to_do(project, capsys):
    (Path("data/raw") / CIFAR10.train_files[2]).unlink()
    with pytest.raises(SystemExit, match=r"^error: data/raw/data_batch_3\.bin: not found; run `dvc repro`"):
        run(main)
    assert not PROCESSED.exists()


def test_impossible_split_writes_nothing(project):
    change_split(validation_fraction=0.999)
    with pytest.raises(PipelineError, match=r"split\.validation_fraction"):
        main()
    assert not PROCESSED.exists()
