"""One file over HTTP(S): limited in size and time, and resumed after a cut."""

import asyncio
import ssl
import sys
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import BinaryIO

import aiohttp
import truststore
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from pipeline.common.addresses import public, reason
from pipeline.common.errors import PipelineError

MINIMUM_BYTES_PER_SECOND = 1000
MAXIMUM_REDIRECTS = 10
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 4.0
SECONDS_BETWEEN_LINES = 15


class _PassingError(Exception):
    """A fault that another attempt may not meet."""


def download(url: str, file: BinaryIO, *, attempts: int, timeout_seconds: float, maximum_bytes: int) -> None:
    """Fill the empty `file` with what is at `url`, in at most `attempts` requests.

    An attempt ends when the answer does not begin within `timeout_seconds`, or brings fewer than `MINIMUM_BYTES_PER_SECOND`
    on average over that time. The next attempt goes on from where it stopped.

    Raises:
        PipelineError: No attempt brought the whole file, another could not help, or it is larger than `maximum_bytes`.
    """
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        progress.add_task(public(url).rpartition("/")[2], total=None)
        transfer = _Transfer(url, file, timeout_seconds, maximum_bytes, progress)
        for attempt in range(1, attempts + 1):
            try:
                asyncio.run(transfer.attempt())
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
    progress: Progress
    total_bytes: int | None = None
    etag: str = ""
    new_bytes: int = 0  # since the deadline was last moved
    printed: float = field(default_factory=time.monotonic)

    async def attempt(self) -> None:
        """Ask for what is missing of the file, and receive it."""
        headers = {"Accept-Encoding": "identity"}  # a compressed transfer would have neither a known length nor the archive's own bytes
        if self.file.tell() and self.total_bytes is not None:
            headers["Range"] = f"bytes={self.file.tell()}-"
            if self.etag:
                headers["If-Range"] = self.etag
        # A mirror inside a company may be signed by a certificate that only this machine knows.
        connector = aiohttp.TCPConnector(ssl=truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        no_limits = aiohttp.ClientTimeout()  # `deadline` is the one limit
        self.new_bytes = 0
        try:
            async with (
                asyncio.timeout(self.timeout_seconds) as deadline,
                aiohttp.ClientSession(connector=connector, timeout=no_limits, auto_decompress=False, trust_env=True) as session,
                session.get(self.url, headers=headers, max_redirects=MAXIMUM_REDIRECTS) as response,
            ):
                self._start(response)
                await self._receive(response.content, deadline)
        except TimeoutError:
            fault = f"too slow: {self.new_bytes} bytes" if self.new_bytes else "no data came"
            raise _PassingError(f"{fault} for {self.timeout_seconds:g} s, after {self.file.tell()} bytes") from None
        except aiohttp.TooManyRedirects:
            raise PipelineError(f"no end after {MAXIMUM_REDIRECTS} redirects") from None
        except (aiohttp.NonHttpUrlClientError, ValueError) as error:  # the address, or the one that it redirects to
            raise PipelineError(f"an impossible address: {reason(error)}") from None
        except aiohttp.ClientPayloadError:
            raise _PassingError(f"the connection broke, after {self.file.tell()} of {self.total_bytes or 'unknown'} bytes") from None
        except aiohttp.ClientError as error:
            raise _PassingError(reason(error)) from None

    def _start(self, response: aiohttp.ClientResponse) -> None:
        """Put the file's position where the body belongs, or refuse the answer."""
        status = response.status
        if status == HTTPStatus.PARTIAL_CONTENT:
            came = response.headers.get("Content-Range", "")
            wanted = f"bytes {self.file.tell()}-{(self.total_bytes or 0) - 1}/{self.total_bytes}"
            if came != wanted:
                raise PipelineError(f"the server sent the range '{came}' where '{wanted}' was due")
            return
        if status in (HTTPStatus.OK, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            self._restart()
        if status != HTTPStatus.OK:
            passing = status >= 500 or status in (HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, HTTPStatus.TOO_MANY_REQUESTS)
            raise (_PassingError if passing else PipelineError)(f"the server answered {status} {response.reason}")
        self.total_bytes = response.content_length
        self._check_size(self.total_bytes or 0)
        etag = response.headers.get("ETag", "")
        self.etag = etag if etag.startswith('"') else ""  # a weak tag does not promise equal bytes

    async def _receive(self, body: aiohttp.StreamReader, deadline: asyncio.Timeout) -> None:
        """Write the body to the file, and move the deadline whenever it has brought enough bytes."""
        enough_bytes = MINIMUM_BYTES_PER_SECOND * self.timeout_seconds
        loop = asyncio.get_running_loop()
        deadline.reschedule(loop.time() + self.timeout_seconds)
        async for chunk in body.iter_any():
            size = self.file.tell() + len(chunk)
            if self.total_bytes is not None and size > self.total_bytes:
                self._restart()  # a resumed answer that brings more than was promised may be of another file
                raise _PassingError(f"more came than the {self.total_bytes} bytes that were promised")
            self._check_size(size)
            self.file.write(chunk)
            self.progress.update(self.progress.task_ids[0], completed=size, total=self.total_bytes)
            if self.progress.disable and time.monotonic() - self.printed > SECONDS_BETWEEN_LINES:  # off a terminal there is no bar
                self.printed = time.monotonic()
                total = f" of {self.total_bytes / 1e6:.1f}" if self.total_bytes else ""
                print(f"{public(self.url)}: {size / 1e6:.1f}{total} MB", file=sys.stderr)
            self.new_bytes += len(chunk)
            if self.new_bytes >= enough_bytes:
                self.new_bytes = 0
                deadline.reschedule(loop.time() + self.timeout_seconds)
        if self.total_bytes is not None and self.file.tell() < self.total_bytes:
            raise _PassingError(f"the answer ended after {self.file.tell()} of {self.total_bytes} bytes")

    def _restart(self) -> None:
        if self.file.tell():
            self.file.seek(0)
            self.file.truncate()

    def _check_size(self, size: int) -> None:
        if size > self.maximum_bytes:
            raise PipelineError(f"larger than data.maximum_megabytes allows ({self.maximum_bytes} bytes)")
