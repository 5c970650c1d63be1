"""The records of data sets."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.common.errors import PipelineError
from pipeline.images.cifar10 import CIFAR10

TWO_LABELS = replace(CIFAR10, label_bytes=2, label_byte=1)


@pytest.mark.parametrize("dataset", [CIFAR10, TWO_LABELS], ids=["one label byte", "two label bytes"])
def test_records_read_back_as_written_one_file_after_the_other(tmp_path, dataset):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    labels = random.integers(0, 10, 7, dtype=np.uint8)
    (tmp_path / "a").write_bytes(dataset.encode_records(images[:4], labels[:4]))
    (tmp_path / "b").write_bytes(dataset.encode_records(images[4:], labels[4:]))
    examples = dataset.read_examples(["a", "b"], tmp_path)
    np.testing.assert_array_equal(examples.images, images)
    np.testing.assert_array_equal(examples.labels, labels)
    assert examples.images.dtype == examples.labels.dtype == np.uint8
    assert examples.classes == dataset.classes


def test_record_is_the_label_then_red_green_and_blue_planes_row_by_row():
    image = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    image[0, 0, 1] = [10, 20, 30]
    record = CIFAR10.encode_records(image, np.array([9], dtype=np.uint8))
    assert len(record) == CIFAR10.record_bytes == 3073
    assert {offset: value for offset, value in enumerate(record) if value} == {0: 9, 2: 10, 2 + 1024: 20, 2 + 2048: 30}


@pytest.mark.parametrize("size", [0, 1, 3072, 3074])
def test_broken_size_is_named(tmp_path, size):
    (tmp_path / "a.bin").write_bytes(bytes(size))
    with pytest.raises(PipelineError, match=rf"a\.bin: {size} bytes is not a whole number of 3073-byte records"):
        CIFAR10.read_examples(["a.bin"], tmp_path)


def test_label_out_of_range_is_named(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(3073) + b"\x0a" + bytes(3072))
    with pytest.raises(PipelineError, match=r"a\.bin: label 10 is not in 0\.\.9"):
        CIFAR10.read_examples(["a.bin"], tmp_path)
