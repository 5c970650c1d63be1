"""A time limit for a server that keeps sending without coming to the point.

A socket's own timeout begins anew with each byte: headers that trickle, or repeat, keep it waiting for ever.
"""

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Self, TypeVar

from requests.adapters import HTTPAdapter
from requests.models import PreparedRequest
from urllib3 import HTTPConnectionPool
from urllib3.connectionpool import ConnectionPool

Connection = TypeVar("Connection")


class Watchdog:
    """Shuts down the connections it watches when it is not fed for `seconds`; while none is open it only waits."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.has_bitten = False
        self._fed_at = time.monotonic()
        self._connections: list[socket.socket] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._guard, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for connection in self._connections:
            connection.close()

    def feed(self) -> None:
        """Tell that something came, so that the time begins anew."""
        self._fed_at = time.monotonic()

    def watch(self, connection: socket.socket) -> None:
        """Watch another connection, from now on."""
        self.feed()
        self.has_bitten = False  # whoever opens another connection has no more use for what was shut down
        # A duplicate stays valid when TLS takes over the descriptor, and when the connection's owner closes it.
        self._connections.append(connection.dup())

    def _guard(self) -> None:
        left = self.seconds
        while not self._ended.wait(left):
            left = self._fed_at + self.seconds - time.monotonic()
            if left <= 0:
                self._bite()
                left = self.seconds

    def _bite(self) -> None:
        for connection in self._connections:
            self.has_bitten = True
            with suppress(OSError):  # the server may have closed it
                connection.shutdown(socket.SHUT_RDWR)


class WatchedAdapter(HTTPAdapter):
    """Puts every connection that requests opens, to a proxy too, under a watchdog from its first byte on."""

    def __init__(self, watchdog: Watchdog) -> None:
        super().__init__()
        self._watchdog = watchdog

    def get_connection_with_tls_context(
        self,
        request: PreparedRequest,
        verify: bool | str | None,
        proxies: Mapping[str, str] | None = None,
        cert: tuple[str, str] | str | None = None,
    ) -> ConnectionPool:
        """Give the connection pool for a request: requests has this method to be overridden."""
        pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
        if isinstance(pool, HTTPConnectionPool):
            pool.ConnectionCls = _watched(type(pool).ConnectionCls, self._watchdog)
        return pool


def _watched(connection_class: type[Connection], watchdog: Watchdog) -> type[Connection]:
    """Derive from a class of urllib3, which has one each for plain and for TLS connections."""

    class Watched(connection_class):  # type: ignore[valid-type, misc]
        def _new_conn(self) -> socket.socket:  # connect() would be too late: it reads the TLS handshake and the proxy's answer
            connection: socket.socket = super()._new_conn()
            watchdog.watch(connection)
            return connection

    return Watched
