"""Downloads from a real server on the loopback, which can fail in every way a mirror does."""

import errno
import io
import random
import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from pipeline.common.errors import PipelineError
from pipeline.images.download import download

BODY = np.random.default_rng(0).bytes(300_000)
OTHER_BODY = BODY[::-1]
FULL_DISK = Path("/dev/full")


@dataclass
class Mirror:
    """A server: the first answers are as scripted, the others as they should be."""

    url: str
    body: bytes = BODY
    answers: list[Callable[["Handler"], None]] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def etag(self) -> str:
        return f'"{hash(self.body)}"'


class Handler(BaseHTTPRequestHandler):
    mirror: Mirror

    def do_GET(self):
        self.mirror.requests.append(dict(self.headers))
        answer = self.mirror.answers.pop(0) if self.mirror.answers else properly
        with suppress(ConnectionError):  # the client may have seen enough
            answer(self)

    def start(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *_):
        pass


def properly(handler: Handler, until: int | None = None) -> None:
    body, etag = handler.mirror.body, handler.mirror.etag
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if wanted and handler.headers.get("If-Range", etag) == etag:
        start = int(wanted[1])
        handler.start(206, Content_Length=len(body) - start, Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}", ETag=etag)
        handler.wfile.write(body[start:until])
    else:
        handler.start(200, Content_Length=len(body), ETag=etag)
        handler.wfile.write(body[:until])


def cut_at(size: int):
    """Answer properly, and break off at that place of the file."""
    return partial(properly, until=size)


def stalling_at(size: int):
    def answer(handler):
        cut_at(size)(handler)
        handler.mirror.closing.wait()

    return answer


def trickling(handler):
    handler.start(200, Content_Length=len(BODY))
    while not handler.mirror.closing.wait(0.01):
        handler.wfile.write(b"x")


def endless(handler):
    handler.start(200)
    for _ in count():
        handler.wfile.write(bytes(100_000))


def repeating(start: bytes, again: bytes):
    """Send the start of an answer, and then the same again and again, but not so long that a test would hang."""

    def answer(handler):
        handler.wfile.write(start)
        for _ in range(200):
            handler.mirror.closing.wait(0.01)
            handler.wfile.write(again)

    return answer


def redirecting_for_ever(handler):
    handler.mirror.answers.append(redirecting_for_ever)
    handler.start(302, Location="/again", Content_Length=0)


def status(code: int, **headers: object):
    return lambda handler: handler.start(code, Content_Length=0, **headers)


def ignoring_range(handler):
    handler.start(200, Content_Length=len(handler.mirror.body))
    handler.wfile.write(handler.mirror.body)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("pipeline.images.download.FIRST_PAUSE_SECONDS", 0)


@pytest.fixture
def mirror():
    handler = type("MirrorHandler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.mirror = Mirror(f"http://127.0.0.1:{server.server_port}/cifar.tar.gz")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield handler.mirror
    handler.mirror.closing.set()
    server.shutdown()
    server.server_close()


def downloaded(url: str, *, attempts: int = 3, timeout_seconds: float = 5.0, maximum_bytes: int = 10**6) -> bytes:
    file = io.BytesIO()
    download(url, file, attempts=attempts, timeout_seconds=timeout_seconds, maximum_bytes=maximum_bytes)
    return file.getvalue()


def test_whole_file_comes_in_one_request_uncompressed(mirror):
    assert downloaded(mirror.url) == BODY
    assert [request["Accept-Encoding"] for request in mirror.requests] == ["identity"]


@pytest.mark.parametrize("size", [1, 1000, len(BODY) - 1])
def test_cut_download_goes_on_where_it_stopped(mirror, size):
    mirror.answers = [cut_at(size)]
    assert downloaded(mirror.url) == BODY
    assert mirror.requests[1]["Range"] == f"bytes={size}-"
    assert mirror.requests[1]["If-Range"] == mirror.etag


@pytest.mark.reliability
def test_a_connection_cut_50_times_at_random_brings_the_whole_file(mirror, record_property):
    cuts = sorted(random.Random(0).sample(range(1, len(BODY)), 50))
    mirror.answers = [cut_at(size) for size in cuts]
    assert downloaded(mirror.url, attempts=51) == BODY
    assert [request["Range"] for request in mirror.requests[1:]] == [f"bytes={size}-" for size in cuts]
    record_property("connections_cut", len(cuts))


def test_weak_etag_is_not_trusted_to_resume(mirror):
    def cut_with_weak_etag(handler):
        handler.start(200, Content_Length=len(BODY), ETag=f"W/{handler.mirror.etag}")
        handler.wfile.write(BODY[:1000])

    mirror.answers = [cut_with_weak_etag]
    assert downloaded(mirror.url) == BODY
    assert "If-Range" not in mirror.requests[1]


def test_cut_before_the_first_byte_starts_again(mirror):
    mirror.answers = [cut_at(0)]
    assert downloaded(mirror.url) == BODY
    assert "Range" not in mirror.requests[1]


def test_file_that_changed_meanwhile_is_not_mixed(mirror):
    def cut_then_change(handler):
        cut_at(1000)(handler)
        handler.mirror.body = OTHER_BODY

    mirror.answers = [cut_then_change]
    assert downloaded(mirror.url) == OTHER_BODY


def test_server_that_ignores_ranges_starts_from_zero(mirror):
    mirror.answers = [cut_at(1000), ignoring_range]
    assert downloaded(mirror.url) == BODY


@pytest.mark.parametrize("content_range", ["", "bytes 0-299999/300000", "bytes 1000-299999/400000", "bytes 1000-2000/300000"])
def test_wrong_range_is_refused(mirror, content_range):
    mirror.answers = [cut_at(1000), status(206, Content_Range=content_range)]
    with pytest.raises(PipelineError, match="'bytes 1000-299999/300000' was due"):
        downloaded(mirror.url)


def test_range_that_was_not_asked_for_is_refused(mirror):
    mirror.answers = [status(206, Content_Range="bytes 0-10/11")]
    with pytest.raises(PipelineError, match="range"):
        downloaded(mirror.url)


def resumed_with(body: bytes):
    """Promise the rest of the file from byte 1000 on, and send something else."""

    def answer(handler):
        handler.start(206, Content_Length=len(body), Content_Range=f"bytes 1000-{len(BODY) - 1}/{len(BODY)}", ETag=handler.mirror.etag)
        handler.wfile.write(body)

    return answer


def test_resumed_answer_that_ends_early_is_resumed_again(mirror):
    mirror.answers = [cut_at(1000), resumed_with(BODY[1000:1100])]
    assert downloaded(mirror.url) == BODY
    assert mirror.requests[2]["Range"] == "bytes=1100-"


@pytest.mark.parametrize("excess", [b"x", bytes(2 * 10**6)])
def test_resumed_answer_that_is_too_long_starts_from_zero(mirror, excess):
    mirror.answers = [cut_at(1000), resumed_with(BODY[1000:] + excess)]
    assert downloaded(mirror.url) == BODY
    assert "Range" not in mirror.requests[2]


@pytest.mark.parametrize(("body", "reason"), [(b"", "ended after 1000 of 300000 bytes"), (BODY, "more came than the 300000 bytes")])
def test_resumed_answer_of_wrong_length_is_no_success(mirror, body, reason):
    mirror.answers = [cut_at(1000), resumed_with(body)]
    with pytest.raises(PipelineError, match=reason):
        downloaded(mirror.url, attempts=2)


def test_unsatisfiable_range_starts_from_zero(mirror):
    mirror.answers = [cut_at(1000), status(416)]
    assert downloaded(mirror.url) == BODY
    assert "Range" not in mirror.requests[2]


def test_body_of_unknown_length_starts_from_zero_after_a_stall(mirror):
    def stalling_without_length(handler):
        handler.start(200)
        handler.wfile.write(BODY[:1000])
        handler.mirror.closing.wait()

    mirror.answers = [stalling_without_length]
    assert downloaded(mirror.url, timeout_seconds=0.2) == BODY
    assert "Range" not in mirror.requests[1]


@pytest.mark.parametrize("code", [429, 500, 503])
def test_passing_fault_is_tried_again(mirror, code):
    mirror.answers = [status(code)]
    assert downloaded(mirror.url) == BODY


@pytest.mark.parametrize("code", [204, 403, 404])
def test_lasting_fault_is_not_tried_again(mirror, code):
    mirror.answers = [status(code)] * 3
    with pytest.raises(PipelineError, match=f"answered {code}"):
        downloaded(mirror.url)
    assert len(mirror.requests) == 1


def test_attempts_are_limited(mirror):
    mirror.answers = [status(503)] * 9
    with pytest.raises(PipelineError, match="503 Service Unavailable \\(attempt 3 of 3\\)"):
        downloaded(mirror.url, attempts=3)
    assert len(mirror.requests) == 3


def test_stall_is_given_up_and_resumed(mirror, capsys):
    mirror.answers = [stalling_at(1000)]
    assert downloaded(mirror.url, timeout_seconds=0.2) == BODY
    assert "no data came for 0.2 s, after 1000 bytes; attempt 2 of 3 follows" in capsys.readouterr().err


def test_server_that_never_answers_is_given_up(mirror):
    mirror.answers = [lambda handler: handler.mirror.closing.wait()]
    with pytest.raises(PipelineError, match=r"no data came for 0\.2 s, after 0 bytes"):
        downloaded(mirror.url, attempts=1, timeout_seconds=0.2)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        repeating(b"HTTP/1.1 200 OK\r\nServer: ", b"x"),
        repeating(b"HTTP/1.1 302 Found\r\nLocation: /", b"x"),
        repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        repeating(CHUNKED + b"1;", b"x"),
        repeating(CHUNKED + b"1\r\nx\r\n0\r\n", b"Trailer: x\r\n" * 1000),
    ],
    ids=["header", "redirect", "continue", "chunk size", "trailers"],
)
def test_server_that_does_not_come_to_the_point_is_given_up(mirror, capsys, answer):
    mirror.answers = [answer]
    assert downloaded(mirror.url, timeout_seconds=0.2) == BODY
    assert re.search(r": (no data came for 0\.2 s|the connection broke), after .*; attempt 2 of 3 follows", capsys.readouterr().err)


def test_trickling_headers_do_not_lose_what_has_come(mirror):
    mirror.answers = [cut_at(1000), repeating(b"HTTP/1.1 200 OK\r\nServer: ", b"x")]
    assert downloaded(mirror.url, timeout_seconds=1.0) == BODY
    assert mirror.requests[2]["Range"] == "bytes=1000-"


def test_trickling_tls_handshake_is_given_up():
    def trickle(server):
        with suppress(ConnectionError), server.accept()[0] as connection:
            connection.sendall(b"\x16\x03\x03\x3f\xff")  # a record of 16 kB begins
            while not given_up.wait(0.01):
                connection.sendall(b"x")

    given_up = threading.Event()
    threading.Timer(2, given_up.set).start()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=trickle, args=[server], daemon=True).start()
        with pytest.raises(PipelineError, match=r"no data came for 0\.2 s"):
            downloaded(f"https://127.0.0.1:{server.getsockname()[1]}/", attempts=1, timeout_seconds=0.2)
    given_up.set()


def test_trickling_proxy_is_given_up(mirror, monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", mirror.url)
    mirror.answers = [repeating(b"HTTP/1.1 200 OK\r\nServer: ", b"x")]
    with pytest.raises(PipelineError, match=r"no data came for 0\.2 s"):
        downloaded("http://mirror.example/cifar.tar.gz", attempts=1, timeout_seconds=0.2)


def test_steady_download_may_take_longer_than_the_timeout(mirror):
    def steadily(handler):
        handler.start(200, Content_Length=len(BODY))
        for start in range(0, len(BODY), 10_000):
            handler.mirror.closing.wait(0.1)
            handler.wfile.write(BODY[start : start + 10_000])

    mirror.answers = [steadily]
    assert downloaded(mirror.url, timeout_seconds=1.0) == BODY
    assert len(mirror.requests) == 1


def test_trickle_is_given_up(mirror):
    mirror.answers = [trickling]
    with pytest.raises(PipelineError, match="too slow"):
        downloaded(mirror.url, attempts=1, timeout_seconds=0.3)


def test_endless_stream_is_refused(mirror):
    mirror.answers = [endless]
    with pytest.raises(PipelineError, match=r"larger than data\.maximum_megabytes allows"):
        downloaded(mirror.url)


def test_announced_size_is_refused_before_the_body_comes(mirror):
    def announcing_a_terabyte(handler):
        handler.start(200, Content_Length=10**12)
        handler.mirror.closing.wait()

    mirror.answers = [announcing_a_terabyte]
    with pytest.raises(PipelineError, match=r"larger than data\.maximum_megabytes allows"):
        downloaded(mirror.url)


def test_largest_allowed_file_comes(mirror):
    assert downloaded(mirror.url, maximum_bytes=len(BODY)) == BODY


def test_content_encoding_does_not_change_the_archive(mirror):
    def calling_it_compressed(handler):
        handler.start(200, Content_Length=len(BODY), Content_Encoding="gzip")
        handler.wfile.write(BODY)

    mirror.answers = [calling_it_compressed]
    assert downloaded(mirror.url) == BODY


def test_redirect_is_followed(mirror):
    mirror.answers = [status(302, Location="/elsewhere")]
    assert downloaded(mirror.url) == BODY


def test_redirects_without_end_are_a_lasting_fault(mirror):
    mirror.answers = [redirecting_for_ever]
    with pytest.raises(PipelineError, match="no end after 10 redirects"):
        downloaded(mirror.url)
    assert len(mirror.requests) == 10


@pytest.mark.parametrize("piece", [b"x", bytes(10**6)], ids=["trickled", "endless"])
def test_body_of_a_redirect_is_not_read(mirror, piece):
    sent_whole = threading.Event()

    def redirecting_with_a_body(handler):
        handler.start(302, Location="/elsewhere")
        for _ in range(100):
            handler.mirror.closing.wait(0.01)
            handler.wfile.write(piece)
        sent_whole.set()

    mirror.answers = [redirecting_with_a_body]
    assert downloaded(mirror.url) == BODY
    assert not sent_whole.is_set()


@pytest.mark.parametrize(
    "location", ["http://a..b/", "http://.x/", f"http://{70 * 'a'}.com/", "http://[", "http://\xff\xfe/", "file:///etc/passwd"]
)
def test_redirect_to_an_impossible_address_is_a_lasting_fault(mirror, location):
    mirror.answers = [status(302, Location=location)]
    with pytest.raises(PipelineError):
        downloaded(mirror.url)
    assert len(mirror.requests) == 1


def test_refused_connection_says_so_without_credentials(capsys):
    with pytest.raises(PipelineError, match=r"^Cannot connect to host 127\.0\.0\.1:1 .*\(attempt 2 of 2\)$"):
        downloaded("http://user:secret@127.0.0.1:1/cifar.tar.gz?token=secret", attempts=2)
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://", "http://user:secret@[::1/x", "http://user:secret@a..b/x", "ftp://127.0.0.1/x"])
def test_impossible_address_is_a_lasting_fault(url):
    with pytest.raises(PipelineError) as fault:
        downloaded(url)
    assert "secret" not in str(fault.value)


@pytest.mark.skipif(not FULL_DISK.exists(), reason="only Linux has /dev/full")
def test_full_disk_is_not_the_servers_fault(mirror):
    with FULL_DISK.open("r+b", buffering=0) as file, pytest.raises(OSError, match="No space left") as fault:
        download(mirror.url, file, attempts=3, timeout_seconds=5.0, maximum_bytes=10**6)
    assert fault.value.errno == errno.ENOSPC
    assert len(mirror.requests) == 1
