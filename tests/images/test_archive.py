"""Archives as they are published, broken ones, and some made to do harm."""

import gzip
import io
import json
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from checks.synthetic import make_files, write_folder
from pipeline.common.errors import PipelineError
from pipeline.images.cifar10 import CIFAR10, LABELS
from pipeline.images.sources import canonical_files, read_folder, read_tar
from tests.images.archives import as_sheets, encode_png, png_chunk, with_second_header, write_archive, write_sheet_archive, write_tar

LIMIT = 10**6
FILES = make_files(images_per_file=20)
SHEETS = as_sheets(FILES)


def files_of(members):
    return dict(canonical_files(members, CIFAR10, LIMIT))


def files_in(path):
    with path.open("rb") as file:
        return files_of(read_tar(file, CIFAR10, LIMIT))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "archive"


@pytest.mark.parametrize("write", [write_archive, write_sheet_archive])
def test_both_published_forms_give_the_same_files(path, write):
    assert files_in(write(path, FILES)) == FILES


def test_plain_tar_is_recognised_by_content(path):
    path.write_bytes(gzip.decompress(write_archive(path, FILES).read_bytes()))
    assert files_in(path) == FILES


@pytest.mark.parametrize("members", [FILES, SHEETS])
def test_folder_gives_the_same_files(path, members):
    write_folder(path, {**members, "readme.html": b"not needed"})
    (path / "subfolder").mkdir()
    assert files_of(read_folder(path, CIFAR10, LIMIT)) == FILES


def test_sheets_may_differ_in_height(path):
    files = {**FILES, "data_batch_2.bin": make_files(images_per_file=7)["data_batch_2.bin"]}
    assert files_in(write_sheet_archive(path, files)) == files


@pytest.mark.parametrize("missing", ["data_batch_3.png", "train_lables.json", "test_batch.png"])
def test_incomplete_archive_says_what_it_holds(path, missing):
    write_tar(path, {name: content for name, content in SHEETS.items() if name != missing})
    with pytest.raises(PipelineError, match=r"holds no complete form of CIFAR-10 \(data_batch_1\.bin … .*\); found data_batch_1\.png, "):
        files_in(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>please log in</html>",
        b"\x1f\x8b",
        gzip.compress(b"not a tar archive"),
        gzip.compress(bytes(100)),
        gzip.compress(np.random.default_rng(0).bytes(2000)),
    ],
    ids=["empty", "web page", "cut gzip", "text", "zeros", "noise"],
)
def test_what_is_no_archive_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(PipelineError, match="not a whole tar archive"):
        files_in(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_archive_is_refused(path, share):
    content = write_archive(path, FILES).read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(PipelineError, match="not a whole tar archive"):
        files_in(path)


def test_corrupt_archive_is_refused(path):
    content = bytearray(write_archive(path, FILES).read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(PipelineError, match="not a whole tar archive"):
        files_in(path)


def test_names_cannot_reach_out_of_the_archive(path, tmp_path):
    write_tar(path, {f"../../..{tmp_path}/{name}": content for name, content in FILES.items()})
    assert files_in(path) == FILES
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_only_regular_members_are_read(path, kind):
    with tarfile.open(path, "w") as tar:
        for name in FILES:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    with pytest.raises(PipelineError, match="found none of its files"):
        files_in(path)


def test_bomb_is_refused_before_it_is_unpacked(path):
    path.write_bytes(gzip.compress(bytes(100 * LIMIT), compresslevel=1))
    with pytest.raises(PipelineError, match=r"unpacks to more than data\.maximum_megabytes allows"):
        files_in(path)


def test_member_larger_than_its_archive_is_refused(path):
    """A GNU sparse member: 512 bytes of it are stored, the rest would be zeros."""
    header = tarfile.TarInfo("data_batch_1.bin")
    header.type = tarfile.GNUTYPE_SPARSE
    header.size = 512
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\x00%011o\x00" % (0, 512)
    block[483:495] = b"%011o\x00" % 10**9
    block[148:156] = b"%06o\x00 " % (sum(block[:148]) + sum(block[156:512]) + 8 * ord(" "))
    path.write_bytes(bytes(block) + bytes(512 * 3))
    with pytest.raises(PipelineError, match="unpacks to more"):
        files_in(path)


def test_negative_size_does_not_go_round_in_circles(path):
    block = bytearray(tarfile.TarInfo("data_batch_1.bin").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + struct.pack(">h", -512)
    block[148:156] = b"%06o\x00 " % (sum(block[:148]) + sum(block[156:512]) + 8 * ord(" "))
    path.write_bytes(bytes(block) * 2 + bytes(1024))
    with pytest.raises(PipelineError, match="not a whole tar archive"):
        files_in(path)


@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"K", b"L", b"D", b"S"])
def test_size_beyond_any_integer_is_refused(path, kind):
    member = tarfile.TarInfo("data_batch_1.bin")
    member.type, member.size = kind, 2**70
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(PipelineError, match=r"not a whole tar archive|unpacks to more"):
        files_in(path)


def test_folder_above_the_limit_is_refused(path):
    with pytest.raises(PipelineError, match="unpacks to more"):
        read_folder(write_folder(path, FILES), CIFAR10, maximum_bytes=1000)


def sheet(mode: str, width: int = 1024) -> bytes:
    return encode_png(Image.new(mode, (width, 20)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot identify image file"),
        (b"GIF89a" + bytes(100), "cannot identify image file"),
        (sheet("P"), "not 8-bit RGB"),
        (sheet("L"), "not 8-bit RGB"),
        (sheet("RGBA"), "not 8-bit RGB"),
        (sheet("I;16"), "not 8-bit RGB"),
        (sheet("RGB", width=1023), "not 8-bit RGB and 1024 pixels wide"),
        (SHEETS["data_batch_1.png"][:-200], "broken: "),
        (SHEETS["data_batch_1.png"][:33], "broken: "),
    ],
)
def test_wrong_sheet_is_refused(content, reason):
    with pytest.raises(PipelineError, match=f"PNG sheet.*{reason}"):
        files_of({**SHEETS, "data_batch_1.png": content})


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ((1024, 30), "130 images and 120 labels"),
        ((1024, 10), "110 images and 120 labels"),
        ((1024, 1000), "unpacks to more"),
        ((12288, 12288), "not 8-bit RGB and 1024 pixels wide"),
        ((1024, 2**31 - 1), "broken: "),
        ((1024, 20, 16, 2), "not 8-bit RGB"),
        ((1024, 20, 8, 3), "not 8-bit RGB"),
        ((1024, 20, 8, 0), "not 8-bit RGB"),
    ],
    ids=["taller", "shorter", "too tall", "wider", "bomb", "16 bits", "palette", "grey"],
)
def test_header_that_contradicts_the_pixels_is_refused(header, reason):
    content = with_second_header(SHEETS["data_batch_1.png"], *header)  # a decoder follows the last header
    with pytest.raises(PipelineError, match=reason):
        files_of({**SHEETS, "data_batch_1.png": content})


def test_broken_chunk_behind_the_pixels_is_refused():
    content = SHEETS["data_batch_1.png"]
    with pytest.raises(PipelineError, match="PNG sheets or their labels are broken"):
        files_of({**SHEETS, "data_batch_1.png": content[:-12] + png_chunk(b"iCCP", b"") + content[-12:]})


@pytest.mark.parametrize(
    "content",
    [
        b"[0, 1",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"labels": [0] * 20}).encode(),
        json.dumps([[0]] * 20).encode(),
        json.dumps([256] * 20).encode(),
        json.dumps([10**30] * 20).encode(),
        json.dumps([-1] * 20).encode(),
        json.dumps(["x"] * 20).encode(),
        json.dumps([0] * 19).encode(),
    ],
)
def test_labels_that_cannot_be_read_are_refused(content):
    with pytest.raises(PipelineError, match=r"the PNG sheets (or their labels are broken|have 120 images and 119 labels)"):
        files_of({**SHEETS, LABELS[1]: content})


def test_unreadable_tar_header_is_refused():
    """A pax header whose length makes no sense."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("data_batch_1.bin")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "x"}
        tar.addfile(member)
    with pytest.raises(PipelineError, match="not a whole tar archive"):
        read_tar(io.BytesIO(buffer.getvalue()), CIFAR10, LIMIT)
