"""What the server lets through to the model, and how it refuses the rest."""

import asyncio
import functools
import json
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

from pipeline.serving.serve import MAXIMUM_BYTES, Checked
from tests.conftest import stage_environment

IMAGES = np.arange(2 * 32 * 32 * 3, dtype=np.int64).reshape(2, 32, 32, 3) % 256
JSON = [(b"content-type", b"application/json; charset=utf-8")]


def body(images: object, key: str = "inputs") -> bytes:
    return json.dumps({key: images.tolist() if isinstance(images, np.ndarray) else images}).encode()


def post(content: bytes, headers: list = JSON, path: str = "/invocations", method: str = "POST") -> tuple[int, dict]:
    """Ask an application that answers 200 with the number of bytes that reach it."""
    answers = []

    async def counts(scope, receive, send):
        received = b""
        while (message := await receive())["type"] == "http.request":
            received += message["body"]
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"bytes": len(received)}).encode()})

    async def send(message):
        answers.append(message)

    chunks = [content[start : start + 2**20] for start in range(0, len(content), 2**20)] or [b""]
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False

    async def receive():
        return messages.pop(0)

    asyncio.run(Checked(counts)({"type": "http", "method": method, "path": path, "headers": headers}, receive, send))
    return answers[0]["status"], json.loads(answers[1]["body"])


@pytest.mark.parametrize("key", ["inputs", "instances"])
@pytest.mark.parametrize("count", [1, 2])
def test_whole_numbers_from_0_to_255_reach_the_model_untouched(key, count):
    content = body(IMAGES[:count], key)
    assert post(content) == (200, {"bytes": len(content)})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "should be a JSON object"),
        (b"{}", "keys inputs and instances"),
        (body(IMAGES, "images"), "keys inputs and instances"),
        (b'{"inputs": [], "instances": []}', "and no other"),
        (body([]), r"these have \(0,\)"),
        (body(np.zeros((0, 32, 32, 3))), r"these have \(0,\)"),
        (body(IMAGES[0]), r"these have \(32, 32, 3\)"),
        (body(IMAGES[:, :28, :28]), r"these have \(2, 28, 28, 3\)"),
        (body(IMAGES[..., :1]), r"these have \(2, 32, 32, 1\)"),
        (body(IMAGES.transpose(0, 3, 1, 2)), r"these have \(2, 3, 32, 32\)"),
        (body([IMAGES[0].tolist(), IMAGES[1, :16].tolist()]), "ragged"),
        (body(IMAGES / 255), "numbers with a decimal point"),
        (body(IMAGES.astype(str)), "texts"),
        (body(IMAGES > 3), "true and false"),
        (body([[[[None] * 3] * 32] * 32]), "null"),
        (body([[[[10**30] * 3] * 32] * 32]), "0 to 255"),
        (body([[[[float("nan")] * 3] * 32] * 32]), "decimal point"),
        (body([[[[True, 1, 2]] * 32] * 32]), "true and false"),
        (body(["a" * 1_000_000, *["b"] * 100_000]), "texts"),
        (body(functools.reduce(lambda inner, _: [inner], range(70), 1)), "ragged"),
        (body(IMAGES + 1), "0 to 255"),
        (body(IMAGES - 1), "0 to 255"),
        (body("images"), "texts"),
        (body({"image": [1]}), "objects"),
    ],
)
def test_what_is_not_images_is_a_400_with_the_reason_in_one_line(content, words):
    status, answer = post(content)
    assert status == 400
    assert re.search(words, answer["error"]), answer
    assert "\n" not in answer["error"]
    assert len(answer["error"]) < 200
    assert "whole numbers from 0 to 255" in answer["hint"]


def test_too_many_images_and_too_many_bytes_are_a_413():
    status, answer = post(body(np.zeros((101, 32, 32, 3), int)))
    assert (status, answer["error"]) == (413, "a request should have 1 to 100 images, and this has 101")
    status, answer = post(b" " * (MAXIMUM_BYTES + 1))
    assert (status, answer["error"]) == (413, "more than 4 MB; send fewer images")
    status, answer = post(b"", [*JSON, (b"content-length", b"99999999999")])
    assert status == 413


@pytest.mark.parametrize("media_type", [b"", b"text/csv", b"application/json; charset=latin-1", b"application/jsonlines"])
def test_another_content_type_is_a_415(media_type):
    status, answer = post(body(IMAGES), [(b"content-type", media_type)])
    assert status == 415
    assert "application/json" in answer["error"]


def test_a_content_type_may_be_written_in_capitals():
    assert post(body(IMAGES), [(b"content-type", b"Application/JSON; Charset=UTF-8")])[0] == 200


def test_other_paths_and_methods_are_mlflows_to_answer():
    assert post(b"", [], "/ping", "GET") == (200, {"bytes": 0})
    assert post(b"", [], "/invocations", "GET") == (200, {"bytes": 0})


def test_a_hundred_images_fit():
    content = body(np.full((100, 32, 32, 3), 255))
    assert post(content) == (200, {"bytes": len(content)})


def test_a_client_that_goes_away_is_no_fault():
    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        raise AssertionError(message)

    asyncio.run(Checked(send)({"type": "http", "method": "POST", "path": "/invocations", "headers": JSON}, receive, send))


@pytest.mark.parametrize("module", ["pipeline.serving.serve", "pipeline.tracking.ui"])
def test_a_taken_port_is_one_clear_error(module, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", module, "--port", port]
        done = subprocess.run(command, env=stage_environment(DVC_ROOT=str(tmp_path)), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"error: --port {port}: cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
