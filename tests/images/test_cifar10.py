"""The binary records of CIFAR-10."""

import numpy as np
import pytest

from pipeline.common.errors import PipelineError
from pipeline.images.cifar10 import RECORD_BYTES, encode_records, read_records


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data_batch_1.bin"


def test_records_read_back_as_written(path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    labels = random.integers(0, 10, 7, dtype=np.uint8)
    path.write_bytes(encode_records(images, labels))
    read_images, read_labels = read_records(path)
    np.testing.assert_array_equal(read_images, images)
    np.testing.assert_array_equal(read_labels, labels)
    assert read_images.dtype == read_labels.dtype == np.uint8


def test_record_is_the_label_then_red_green_and_blue_planes_row_by_row():
    image = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    image[0, 0, 1] = [10, 20, 30]
    record = encode_records(image, np.array([9], dtype=np.uint8))
    assert len(record) == RECORD_BYTES
    assert {offset: value for offset, value in enumerate(record) if value} == {0: 9, 2: 10, 2 + 1024: 20, 2 + 2048: 30}


@pytest.mark.parametrize("size", [0, 1, RECORD_BYTES - 1, RECORD_BYTES + 1])
def test_broken_size_is_named(path, size):
    path.write_bytes(bytes(size))
    with pytest.raises(PipelineError, match=rf"data_batch_1\.bin: {size} bytes is not a whole number"):
        read_records(path)


def test_label_out_of_range_is_named(path):
    path.write_bytes(bytes(RECORD_BYTES) + b"\x0a" + bytes(RECORD_BYTES - 1))
    with pytest.raises(PipelineError, match=r"label 10 is not in 0\.\.9"):
        read_records(path)
