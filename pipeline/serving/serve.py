"""Serve the champion with MLflow's scoring server, on this machine alone. The model checks the images that it is sent.

Before that, requests are refused that MLflow would read without a limit, answer with status 500, or repeat in its complaint.
"""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from pipeline.common.command import run
from pipeline.common.loopback import HOST, listen

PATH = "/invocations"
JSON = "application/json"
MAXIMUM_BYTES = 4 * 2**20  # a hundred images as JSON, with blanks between the numbers
KEYS = ("inputs", "instances")


def main() -> None:
    """Load the model and answer until stopped."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.serving.serve", description=__doc__)
    parser.add_argument("--port", type=int, default=5001, help=f"of {HOST} (default: %(default)s)")
    parser.add_argument("--model", help="a registered model (default: the data set's name, and trial.network of params.yaml)")
    arguments = parser.parse_args()
    with listen(arguments.port) as listening, suppress(KeyboardInterrupt):
        import uvicorn  # these here, so that --help and a port that is taken need not wait for TensorFlow and MLflow
        from mlflow.pyfunc import scoring_server

        from pipeline.serving.registry import load_champion, model_name
        from pipeline.trials.parameters import load_parameters

        model, served = load_champion(arguments.model or model_name(load_parameters().trial.network))
        app = scoring_server.init(model)
        app.middleware("http")(check_request)
        print(f"serving {served} at http://{HOST}:{arguments.port}{PATH}; stop it with Ctrl-C", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


async def check_request(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Pass on to MLflow what may hold images, and answer the rest with what is wrong: 400, 411, 413 or 415."""
    if request.method != "POST" or request.url.path != PATH:
        return await call_next(request)
    length, media_type = (request.headers.get(name, "") for name in ("content-length", "content-type"))
    if media_type.partition(";")[0].strip().lower() != JSON:
        return _refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type should be {JSON} (got {media_type!r:.80})")
    if not length.isdecimal():
        return _refusal(HTTPStatus.LENGTH_REQUIRED, "the request should have a Content-Length")
    if int(length) > MAXIMUM_BYTES:
        return _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAXIMUM_BYTES // 2**20} MB; send fewer images")
    try:
        content = await asyncio.to_thread(json.loads, await request.body())  # in a thread, so that others are answered meanwhile
    except ClientDisconnect:
        return Response()  # which nobody reads
    except (ValueError, RecursionError) as error:
        return _refusal(HTTPStatus.BAD_REQUEST, f"not valid JSON ({error})")
    if not isinstance(content, dict) or [*content] not in ([key] for key in KEYS):
        return _refusal(HTTPStatus.BAD_REQUEST, f"should be a JSON object with one of the keys {' and '.join(KEYS)}, and no other")
    return await call_next(request)


def _refusal(status: HTTPStatus, fault: str) -> Response:
    return JSONResponse({"error_code": "BAD_REQUEST", "message": fault}, status)


if __name__ == "__main__":
    run(main)
