"""One file over HTTP(S): size-limited, resumed after a cut, and given up when it only trickles."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import BinaryIO

import requests
import urllib3
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pipeline.common.addresses import public
from pipeline.common.errors import PipelineError
from pipeline.images.watchdog import Watchdog, WatchedAdapter

CHUNK_BYTES = 1 << 18
MINIMUM_BYTES_PER_SECOND = 1000
MAXIMUM_REDIRECTS = 10
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 4.0

Report = Callable[[int, int | None], None]


class _PassingError(Exception):
    """A fault that another attempt may not meet."""


def download(url: str, file: BinaryIO, *, attempts: int, timeout_seconds: float, maximum_bytes: int) -> None:
    """Fill the empty `file` with what is at `url`, in at most `attempts` requests.

    An attempt ends when nothing of the file comes for `timeout_seconds`, or when fewer than `MINIMUM_BYTES_PER_SECOND`
    came on average over that time; the next one goes on from where it stopped.

    Raises:
        PipelineError: no attempt brought the whole file, another could not help, or it is larger than `maximum_bytes`.
    """
    with _progress(public(url).rpartition("/")[2]) as report:
        transfer = _Transfer(url, file, timeout_seconds, maximum_bytes, report)
        for attempt in range(1, attempts + 1):
            try:
                transfer.attempt()
            except _PassingError as fault:
                if attempt == attempts:
                    raise PipelineError(f"{fault} (attempt {attempt} of {attempts})") from None
                print(f"{public(url)}: {fault}; attempt {attempt + 1} of {attempts} follows", file=sys.stderr)
            else:
                return
            time.sleep(min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS))


@dataclass
class _Transfer:
    """A download under way: `file` holds what has come, up to its position."""

    url: str
    file: BinaryIO
    timeout_seconds: float
    maximum_bytes: int
    report: Report
    total_bytes: int | None = None
    etag: str = ""

    def attempt(self) -> None:
        with Watchdog(self.timeout_seconds) as watchdog:
            try:
                with self._ask(watchdog) as response:
                    self._start(response)
                    self._receive(response.raw, watchdog)
                self._check_complete()
            except (_PassingError, PipelineError):
                if not watchdog.has_bitten:
                    raise
            # What a connection that was shut down has brought may look like a whole answer.
            if watchdog.has_bitten:
                raise _PassingError(self._no_data())

    def _ask(self, watchdog: Watchdog) -> requests.Response:
        try:
            with requests.Session() as session:
                session.max_redirects = MAXIMUM_REDIRECTS
                for scheme in list(session.adapters):
                    session.mount(scheme, WatchedAdapter(watchdog))
                hooks = {"response": partial(_judge_headers, watchdog=watchdog)}
                return session.get(self.url, headers=self._headers(), stream=True, timeout=self.timeout_seconds, hooks=hooks)
        except requests.ReadTimeout:
            raise _PassingError(self._no_data()) from None
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _PassingError(_cause(error)) from None
        except requests.RequestException as error:
            raise PipelineError(public(str(error))) from None
        except ValueError as error:  # of the address, or of the one it redirects to
            raise PipelineError(f"an impossible address: {public(str(error))}") from None

    def _no_data(self) -> str:
        return f"no data came for {self.timeout_seconds:g} s, after {self.file.tell()} bytes"

    def _headers(self) -> dict[str, str]:
        # A compressed transfer would have neither a known length nor the archive's own bytes.
        headers = {"Accept-Encoding": "identity"}
        if self.file.tell() and self.total_bytes is not None:
            headers["Range"] = f"bytes={self.file.tell()}-"
            if self.etag:
                headers["If-Range"] = self.etag
        return headers

    def _start(self, response: requests.Response) -> None:
        """Put the file's position where the body belongs, or refuse the answer."""
        if response.status_code == HTTPStatus.OK:
            self._restart()
            self.total_bytes = response.raw.length_remaining
            etag = response.headers.get("ETag", "")
            self.etag = etag if etag.startswith('"') else ""  # a weak tag does not promise equal bytes
            self._check_size(self.total_bytes or 0)
        elif response.status_code == HTTPStatus.PARTIAL_CONTENT:
            self._check_range(response.headers.get("Content-Range", ""))
        else:
            self._refuse(response)

    def _restart(self) -> None:
        if self.file.tell():
            self.file.seek(0)
            self.file.truncate()

    def _check_range(self, content_range: str) -> None:
        wanted = f"bytes {self.file.tell()}-{(self.total_bytes or 0) - 1}/{self.total_bytes}"
        if content_range != wanted:
            raise PipelineError(f"the server sent the range '{content_range}' where '{wanted}' was due")

    def _refuse(self, response: requests.Response) -> None:
        answer = f"the server answered {response.status_code} {response.reason}"
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._restart()
            raise _PassingError(answer)
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS or response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _PassingError(answer)
        raise PipelineError(answer)

    def _receive(self, body: urllib3.HTTPResponse, watchdog: Watchdog) -> None:
        for chunk in self._fast_enough(self._chunks(body)):
            watchdog.feed()
            self._check_length(self.file.tell() + len(chunk))
            self._check_size(self.file.tell() + len(chunk))
            self.file.write(chunk)
            self.report(self.file.tell(), self.total_bytes)

    def _chunks(self, body: urllib3.HTTPResponse) -> Iterator[bytes]:
        try:
            # read1 returns what is there, read would wait for a trickle to fill the chunk.
            while chunk := body.read1(CHUNK_BYTES, decode_content=False):
                yield chunk
        except urllib3.exceptions.ReadTimeoutError:
            raise _PassingError(self._no_data()) from None
        except urllib3.exceptions.HTTPError:
            raise _PassingError(f"the connection broke after {self.file.tell()} of {self.total_bytes or 'unknown'} bytes") from None

    def _fast_enough(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        start, received = time.monotonic(), 0
        for chunk in chunks:
            yield chunk
            received += len(chunk)
            elapsed = time.monotonic() - start
            if elapsed >= self.timeout_seconds:
                if received < MINIMUM_BYTES_PER_SECOND * elapsed:
                    raise _PassingError(f"too slow: {received} bytes in {elapsed:.3g} s")
                start, received = time.monotonic(), 0

    def _check_length(self, size: int) -> None:
        """Begin anew when a resumed answer brings more than was promised: its bytes may be those of another file."""
        if self.total_bytes is not None and size > self.total_bytes:
            self._restart()
            raise _PassingError(f"more came than the {self.total_bytes} bytes that were promised")

    def _check_complete(self) -> None:
        if self.total_bytes is not None and self.file.tell() < self.total_bytes:
            raise _PassingError(f"the answer ended after {self.file.tell()} of {self.total_bytes} bytes")

    def _check_size(self, size: int) -> None:
        if size > self.maximum_bytes:
            raise PipelineError(f"larger than data.maximum_megabytes allows ({self.maximum_bytes} bytes)")


def _judge_headers(response: requests.Response, *, watchdog: Watchdog, **_: object) -> None:
    if response.is_redirect or watchdog.has_bitten:
        response.close()  # requests would read a redirect's body, however large, before it follows
    if watchdog.has_bitten:
        raise requests.ReadTimeout


def _cause(error: requests.RequestException) -> str:
    """Find the reason inside the layers that urllib3 and requests wrap around it."""
    reason = getattr(error.args[0], "reason", error) if error.args else error
    return public(str(reason)).rpartition("): ")[2]


@contextmanager
def _progress(name: str) -> Iterator[Report]:
    """Show received and total bytes on stderr: a bar on a terminal, elsewhere a line for each quarter."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _quarter_lines(name)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None)
        yield lambda received, total: bar.update(task, completed=received, total=total)


def _quarter_lines(name: str) -> Report:
    shown = 0

    def report(received: int, total: int | None) -> None:
        nonlocal shown
        quarter = 4 * received // total if total else 0
        if quarter > shown:
            shown = quarter
            print(f"{name}: {25 * quarter} % of {(total or 0) / 1e6:.1f} MB", file=sys.stderr)

    return report
