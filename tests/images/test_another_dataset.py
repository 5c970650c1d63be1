"""Another data set of the same shape family: what it takes to add one, and what names it afterwards."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from checks.synthetic import make_files, md5_of, parameters_data, write_folder
from pipeline import fetch, preprocess
from pipeline.common.errors import PipelineError
from pipeline.common.parameters import read_sections
from pipeline.images.arrays import load_examples
from pipeline.images.dataset import Dataset
from pipeline.images.datasets import DATASETS
from pipeline.images.parameters import DataSection
from tests.images.archives import write_tar

# The binary version has two label bytes: one of 20 coarse classes, then one of 100 fine ones.
CIFAR100 = Dataset(
    name="cifar100",
    title="CIFAR-100",
    home="https://www.cs.toronto.edu/~kriz/cifar.html",
    citation="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    classes=tuple(f"class {label}" for label in range(100)),
    train_files=("train.bin",),
    test_file="test.bin",
    label_bytes=2,
    label_byte=1,
)
FILES = make_files(images_per_file=200, dataset=CIFAR100)
SPLIT = {"method": "last", "validation_fraction": 0.5, "seed": 0}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage"])
    monkeypatch.setitem(DATASETS, CIFAR100.name, CIFAR100)


def write_parameters(source: Path, **changes):
    data = {**parameters_data([source], md5_of(FILES), dataset="cifar100"), **changes}
    YAML().dump({"data": data, "split": SPLIT}, Path("params.yaml"))


@pytest.mark.parametrize("folder", [False, True])
def test_one_entry_takes_it_from_its_source_to_arrays_and_profile(tmp_path, folder):
    members = {**FILES, "fine_label_names.txt": b"apple\n"}
    write_parameters(write_folder(tmp_path / "source", members) if folder else write_tar(tmp_path / "cifar-100-binary.tar.gz", members))
    fetch.main()
    assert {path.name: path.read_bytes() for path in Path("data/raw").iterdir()} == FILES
    preprocess.main()
    records = np.frombuffer(FILES["train.bin"], dtype=np.uint8).reshape(200, 2 + 3072)
    train, validation, test = (load_examples(split) for split in ("train", "validation", "test"))
    np.testing.assert_array_equal(np.concatenate([train.labels, validation.labels]), records[:, 1])
    np.testing.assert_array_equal(train.images[0].transpose(2, 0, 1).ravel(), records[0, 2:])
    assert train.images.shape == validation.images.shape == (100, 32, 32, 3)
    assert test.images.shape == (200, 32, 32, 3)
    assert train.classes == validation.classes == test.classes == CIFAR100.classes
    profile = json.loads(Path("data/processed/profile.json").read_text())
    assert profile["dataset"] == {"name": "cifar100", "title": "CIFAR-100", "home": CIFAR100.home, "citation": CIFAR100.citation}
    assert profile["split"] == SPLIT
    assert profile["classes"]["test"] == dict.fromkeys(CIFAR100.classes, 2)


def test_a_source_that_has_another_data_set_is_refused_by_name(tmp_path):
    write_parameters(write_folder(tmp_path / "source", make_files(images_per_file=10)))
    with pytest.raises(
        PipelineError, match=r"no source gave CIFAR-100: .*/source: holds no complete form of CIFAR-100 \(train\.bin … test\.bin\)"
    ):
        fetch.main()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"dataset": "mnist"}, r"data\.dataset: should be one of cifar10, cifar100 \(got 'mnist'\)"),
        ({"dataset": "cifar10"}, r"data\.md5\.data_batch_1\.bin: Field required; .*data\.md5\.train\.bin: Extra inputs are not permitted"),
        ({"md5": md5_of({"train.bin": b""})}, r"data\.md5\.test\.bin: Field required"),
        ({"md5": md5_of({**FILES, "meta.txt": b""})}, r"data\.md5\.meta\.txt: Extra inputs are not permitted"),
    ],
)
def test_parameters_name_a_known_data_set_and_exactly_its_files(tmp_path, changes, fault):
    write_parameters(tmp_path, **changes)
    with pytest.raises(PipelineError, match=rf"^params\.yaml: {fault}") as raised:
        read_sections(DataSection)
    assert "\n" not in str(raised.value)
