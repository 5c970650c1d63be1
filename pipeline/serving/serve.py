"""Serve the champion with MLflow's scoring server, on this machine alone; a request that is not right is told why.

MLflow would cut the fraction off 0.5 and take 0, and repeat the whole request in its complaint; so what is asked is checked before.
"""

import argparse
import json
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.common.command import run
from pipeline.common.loopback import HOST, listen
from pipeline.images.cifar10 import IMAGE_SHAPE

PATH = "/invocations"
JSON = "application/json"
MAXIMUM_IMAGES = 100  # for MLflow takes 8 ms to copy and convert each
MAXIMUM_BYTES = 4 * 2**20  # a hundred images as JSON, with blanks between the numbers
KINDS = {float: "numbers with a decimal point", str: "texts", bool: "true and false", dict: "objects", type(None): "null"}
BRIGHTEST = 255
KEYS = ("inputs", "instances")
HINT = f'give uint8 images as {{"inputs": [...]}}, n x {" x ".join(map(str, IMAGE_SHAPE))} whole numbers from 0 to 255'


class BadRequestError(Exception):
    """What is wrong with a request, and the HTTP status that says so."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def main() -> None:
    """Load the model and answer until stopped."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.serving.serve", description=__doc__)
    parser.add_argument("--port", type=int, default=5001, help=f"of {HOST} (default: %(default)s)")
    port = parser.parse_args().port
    with listen(port) as listening, suppress(KeyboardInterrupt):
        import uvicorn

        app, served = _load()
        print(f"serving {served} at http://{HOST}:{port}{PATH}; stop it with Ctrl-C", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


def _load() -> tuple[ASGIApp, str]:
    from mlflow.pyfunc import scoring_server

    from pipeline.serving.registry import load_champion

    model, served = load_champion()
    return Checked(scoring_server.init(model)), served


class Checked:
    """An ASGI application before MLflow's: passes on what can be answered, and explains what cannot."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            check_headers(request.headers)
            body = await _read(request)
            await run_in_threadpool(check_images, body)  # so that others are answered meanwhile
        except BadRequestError as fault:
            await JSONResponse({"error": str(fault), "hint": HINT}, fault.status)(scope, receive, send)
        except ClientDisconnect:
            return
        else:
            await self.app({**scope, "headers": [(b"content-type", JSON.encode())]}, _giving(body, receive), send)


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        _check_size(len(body))
    return bytes(body)


def _giving(body: bytes, receive: Receive) -> Receive:
    """What a request that was read already is read from once more."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return messages.pop() if messages else await receive()

    return give


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse what is not said to be JSON, or is said to be too long.

    Raises:
        BadRequestError: 415 or 413.
    """
    media_type, _, charset = headers.get("content-type", "").lower().partition(";")
    if media_type.strip() != JSON or charset.strip() not in ("", "charset=utf-8"):
        got = headers.get("content-type", "")
        raise BadRequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type should be {JSON} in UTF-8 (got {got!r:.80})")
    length = headers.get("content-length", "")
    _check_size(int(length) if length.isdecimal() else 0)


def _check_size(size: int) -> None:
    if size > MAXIMUM_BYTES:
        raise BadRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAXIMUM_BYTES // 2**20} MB; send fewer images")


def check_images(body: bytes) -> None:
    """Refuse what holds no images that the model can take.

    Raises:
        BadRequestError: 400, or 413 for too many; the message says what is wrong in one line.
    """
    images = _as_array(_content(body))
    if images.ndim != len(IMAGE_SHAPE) + 1 or images.shape[1:] != IMAGE_SHAPE:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, f"images should have the shape (n, 32, 32, 3), and these have {images.shape}")
    if not 1 <= len(images) <= MAXIMUM_IMAGES:
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if len(images) else HTTPStatus.BAD_REQUEST
        raise BadRequestError(status, f"a request should have 1 to {MAXIMUM_IMAGES:,} images, and this has {len(images):,}")
    if images.min() < 0 or images.max() > BRIGHTEST:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "pixels should be 0 to 255, and these are not")


def _content(body: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, f"not valid JSON ({error})") from None
    if not isinstance(request, dict) or len(request) != 1 or next(iter(request)) not in KEYS:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, f"should be a JSON object with one of the keys {' and '.join(KEYS)}, and no other")
    return request.popitem()[1]


def _as_array(images: Any) -> NDArray[np.object_]:  # noqa: ANN401
    # Of objects, because NumPy would make numbers of truth values, and texts as long as the longest of them.
    array = np.array(images, dtype=object)
    kinds = set(map(type, array.ravel())) - {int}
    if list in kinds:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "images should all have the same shape, and these are ragged")
    if kinds:
        found = " and ".join(sorted(KINDS[kind] for kind in kinds))
        raise BadRequestError(HTTPStatus.BAD_REQUEST, f"pixels should be whole numbers, and there are {found}")
    return array


if __name__ == "__main__":
    run(main)
