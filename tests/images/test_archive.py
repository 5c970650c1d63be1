"""Archives as they are published, broken ones, and some made to do harm."""

import gzip
import io
import json
import struct
import tarfile
import warnings

import numpy as np
import pytest
from PIL import Image

from checks.synthetic import (
    as_sheets,
    encode_png,
    make_files,
    png_chunk,
    with_second_header,
    write_archive,
    write_folder,
    write_sheet_archive,
    write_tar,
)
from pipeline.common.errors import PipelineError
from pipeline.images.archive import canonical_files, read_folder, read_tar

LIMIT = 10**6
FILES = make_files(images_per_file=20)
SHEETS = as_sheets(FILES)


def files_in(path, maximum_bytes=LIMIT):
    with path.open("rb") as file:
        return dict(canonical_files(read_tar(file, maximum_bytes), maximum_bytes))


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
    assert dict(canonical_files(read_folder(path, LIMIT), LIMIT)) == FILES


def test_sheets_may_differ_in_height(path):
    files = {**FILES, "data_batch_2.bin": make_files(images_per_file=7)["data_batch_2.bin"]}
    assert files_in(write_sheet_archive(path, files)) == files


@pytest.mark.parametrize("missing", ["data_batch_3.png", "train_lables.json", "test_batch.png"])
def test_incomplete_archive_says_what_it_holds(path, missing):
    write_tar(path, {name: content for name, content in SHEETS.items() if name != missing})
    with pytest.raises(PipelineError, match=r"holds neither data_batch_1\.bin … test_batch\.bin nor .* found data_batch_1\.png, "):
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
    with pytest.raises(PipelineError, match="found nothing"):
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
        read_folder(write_folder(path, FILES), maximum_bytes=1000)


def sheet(mode: str, width: int = 1024) -> bytes:
    return encode_png(Image.new(mode, (width, 20)))


def declared_height(height: int) -> bytes:
    content = SHEETS["data_batch_1.png"]
    return content[:20] + struct.pack(">I", height) + content[24:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a PNG"),
        (b"GIF89a" + bytes(100), "not a PNG"),
        (sheet("P"), "should be 8-bit RGB"),
        (sheet("L"), "should be 8-bit RGB"),
        (sheet("RGBA"), "should be 8-bit RGB"),
        (sheet("I;16"), "should be 8-bit RGB"),
        (sheet("RGB", width=1023), "should be 8-bit RGB, 1024 pixels wide"),
        (declared_height(2**31 - 1), "unpacks to more"),
        (declared_height(21), "100 labels for 101 images"),
        (SHEETS["data_batch_1.png"][:-200], "data_batch_1.png: broken PNG"),
        (SHEETS["data_batch_1.png"][:33], "data_batch_1.png: broken PNG"),
    ],
)
def test_wrong_sheet_is_refused(content, reason):
    with pytest.raises(PipelineError, match=reason):
        dict(canonical_files({**SHEETS, "data_batch_1.png": content}, LIMIT))


def test_sheet_of_16_bits_a_channel_is_refused():
    content = bytearray(SHEETS["data_batch_1.png"])
    content[24] = 16
    with pytest.raises(PipelineError, match="should be 8-bit RGB"):
        dict(canonical_files({**SHEETS, "data_batch_1.png": bytes(content)}, LIMIT))


@pytest.mark.parametrize(
    "header",
    [(1024, 30), (1024, 10), (12288, 12288), (1024, 20, 16, 2), (1024, 20, 8, 3), (1024, 20, 8, 0)],
    ids=["taller", "shorter", "bomb", "16 bits", "palette", "grey"],
)
def test_second_header_is_refused_before_the_sheet_is_decoded(header):
    content = with_second_header(SHEETS["data_batch_1.png"], *header)
    with warnings.catch_warnings(action="error"), pytest.raises(PipelineError, match="a later header contradicts the first"):
        dict(canonical_files({**SHEETS, "data_batch_1.png": content}, LIMIT))


def test_broken_chunk_behind_the_pixels_is_refused():
    content = SHEETS["data_batch_1.png"]
    with pytest.raises(PipelineError, match=r"data_batch_1\.png: broken PNG"):
        dict(canonical_files({**SHEETS, "data_batch_1.png": content[:-12] + png_chunk(b"iCCP", b"") + content[-12:]}, LIMIT))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[0, 1", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (json.dumps({"labels": [0] * 20}).encode(), "list of integers"),
        (json.dumps([[0]] * 20).encode(), "list of integers"),
        (json.dumps([10] * 20).encode(), "list of integers"),
        (json.dumps([-1] * 20).encode(), "list of integers"),
        (json.dumps([1.0] * 20).encode(), "list of integers"),
        (json.dumps([True] * 20).encode(), "list of integers"),
        (json.dumps([0] * 19).encode(), "19 labels for 20 images"),
    ],
)
def test_wrong_labels_are_refused(content, reason):
    with pytest.raises(PipelineError, match=f"test_lables.json: .*{reason}"):
        dict(canonical_files({**SHEETS, "test_lables.json": content}, LIMIT))


def test_unreadable_tar_header_is_refused():
    """A pax header whose length makes no sense."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("data_batch_1.bin")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "x"}
        tar.addfile(member)
    with pytest.raises(PipelineError, match="not a whole tar archive"):
        read_tar(io.BytesIO(buffer.getvalue()), LIMIT)
