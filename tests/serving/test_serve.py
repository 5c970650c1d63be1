"""MLflow's scoring app with a model of ours: what it answers, and how it refuses the rest."""

import asyncio
import functools
import json
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

from pipeline.common.statistics import Summary
from pipeline.serving.serve import MAXIMUM_BYTES, check_request
from pipeline.training.network import build_model
from tests.conftest import stage_environment

IMAGES = np.arange(2 * 32 * 32 * 3, dtype=np.int64).reshape(2, 32, 32, 3) % 256
JSON = [(b"content-type", b"application/json; charset=utf-8")]
CLASSES = [f"class {label}" for label in range(10)]


@pytest.fixture(scope="module")
def network(parameters):
    return build_model(parameters.trial_config("baseline", {"hidden_units": [16]}, 0), 0, (32, 32, 3), 10)


@pytest.fixture(scope="module")
def apps(network, tmp_path_factory):
    """MLflow's app around the model as it is served: as `mlflow models serve` has it, and as `make serve` does."""
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

    from pipeline.serving import served_model
    from pipeline.serving.registry import Candidate, Submission

    folder = tmp_path_factory.mktemp("served")
    network.save(folder / "network.keras")
    candidate = Candidate("baseline", 0, 0.5, Summary(0.5, None, 1))
    submission = Submission("model", candidate, "", "", 0.4, network, CLASSES, "as trained", "", {}, IMAGES[:1].astype(np.uint8))
    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=served_model.__file__,
        artifacts={"network": str(folder / "network.keras")},
        model_config={"classes": CLASSES},
        signature=submission.signature(),
        pip_requirements=[],
    )
    apps = {name: scoring_server.init(mlflow.pyfunc.load_model(str(folder / "model"))) for name in ("mlflow models serve", "make serve")}
    apps["make serve"].middleware("http")(check_request)
    return apps


@pytest.fixture(params=["mlflow models serve", "make serve"])
def either(apps, request):
    return apps[request.param]


@pytest.fixture
def app(apps):
    return apps["make serve"]


def body(images: object, key: str = "inputs") -> bytes:
    return json.dumps({key: images.tolist() if isinstance(images, np.ndarray) else images}).encode()


def post(app, content: bytes, headers: list | None = None, path: str = "/invocations", method: str = "POST") -> tuple[int, dict]:
    """Ask the application; a body without a header for its length gets one."""
    headers = [*(JSON if headers is None else headers)]
    if not any(name == b"content-length" for name, _ in headers):
        headers.append((b"content-length", str(len(content)).encode()))
    answers, messages = [], [{"type": "http.request", "body": content, "more_body": False}]

    async def receive():
        return messages.pop() if messages else await asyncio.sleep(60)

    async def send(message):
        answers.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b"", "http_version": "1.1"}
    asyncio.run(app(scope, receive, send))
    answer = b"".join(message.get("body", b"") for message in answers[1:])
    return answers[0]["status"], json.loads(answer) if answer.strip() else {}


@pytest.mark.parametrize("key", ["inputs", "instances"])
@pytest.mark.parametrize("count", [1, 2])
def test_whole_numbers_from_0_to_255_are_answered_with_the_networks_own_bits(either, network, key, count):
    status, answer = post(either, body(IMAGES[:count], key))
    assert status == 200
    expected = network(np.tile(IMAGES.astype(np.uint8), (50, 1, 1, 1)), training=False).numpy()[:count]
    got = [[row["probabilities"][name] for name in CLASSES] for row in answer["predictions"]]
    assert np.array_equal(np.array(got, np.float32), expected)
    assert [row["class"] for row in answer["predictions"]] == [CLASSES[row.argmax()] for row in expected]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], r"these have \(0,\)"),
        (np.zeros((0, 32, 32, 3)), r"these have \(0,\)"),
        (IMAGES[0], r"these have \(32, 32, 3\)"),
        (IMAGES[:, :28, :28], r"these have \(2, 28, 28, 3\)"),
        (IMAGES[..., :1], r"these have \(2, 32, 32, 1\)"),
        (IMAGES.transpose(0, 3, 1, 2), r"these have \(2, 3, 32, 32\)"),
        ([IMAGES[0].tolist(), IMAGES[1, :16].tolist()], "ragged"),
        (IMAGES / 255, "numbers with a decimal point"),
        (IMAGES.astype(str), "texts"),
        (IMAGES > 3, "true and false"),
        ([[[[None] * 3] * 32] * 32], "null"),
        ([[[[10**30] * 3] * 32] * 32], "0 to 255"),
        ([[[[float("nan")] * 3] * 32] * 32], "decimal point"),
        ([[[[True, 1, 2]] * 32] * 32], "true and false"),
        (["a" * 1_000_000, *["b"] * 100_000], "texts"),
        (functools.reduce(lambda inner, _: [inner], range(70), 1), "ragged"),
        (IMAGES + 1, "0 to 255"),
        (IMAGES - 1, "0 to 255"),
        ("images", "texts"),
        (None, "null"),
    ],
)
def test_what_is_not_images_is_a_400_of_the_model_with_the_reason_in_one_line(either, images, words):
    status, answer = post(either, body(images))
    assert status == 400
    assert re.search(words, answer["message"]), answer
    assert "\n" not in answer["message"]
    assert len(answer["message"]) < 300
    assert "n x 32 x 32 x 3 whole numbers from 0 to 255" in answer["message"]


def test_too_many_images_are_a_413_of_the_model_and_a_hundred_fit(either):
    status, answer = post(either, body(np.zeros((101, 32, 32, 3), int)))
    assert status == 413
    assert answer["message"].startswith("a request should have 1 to 100 images, and this has 101; send")
    assert post(either, body(np.full((100, 32, 32, 3), 255)))[0] == 200


def test_an_object_in_place_of_images_is_a_400(either):
    status, answer = post(either, body({"image": [1]}))
    assert (status, "images" in answer["message"]) == (400, True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (body(IMAGES)[:-1], "not valid JSON"),
        (b"[1]", "should be a JSON object"),
        (b"{}", "keys inputs and instances"),
        (body(IMAGES, "images"), "keys inputs and instances"),
        (body("a question", "input"), "keys inputs and instances"),
        (b'{"inputs": [], "instances": []}', "and no other"),
    ],
)
def test_what_mlflow_would_repeat_or_fail_at_is_a_400_with_the_reason_in_one_line(app, content, words):
    status, answer = post(app, content)
    assert status == 400
    assert re.search(words, answer["message"]), answer
    assert "\n" not in answer["message"]
    assert len(answer["message"]) < 200


def test_too_many_bytes_are_a_413_and_of_unknown_length_a_411(app):
    status, answer = post(app, b" " * (MAXIMUM_BYTES + 1))
    assert (status, answer["message"]) == (413, "more than 4 MB; send fewer images")
    assert post(app, b"", [*JSON, (b"content-length", b"99999999999")])[0] == 413
    assert post(app, body(IMAGES), [*JSON, (b"content-length", b"")])[0] == 411


@pytest.mark.parametrize("media_type", [b"", b"text/csv", b"application/jsonlines"])
def test_another_content_type_is_a_415(app, media_type):
    status, answer = post(app, body(IMAGES), [(b"content-type", media_type)])
    assert status == 415
    assert "application/json" in answer["message"]


def test_other_paths_and_methods_are_mlflows_to_answer(app):
    assert post(app, b"", [], "/ping", "GET")[0] == 200
    assert post(app, b"", [], "/invocations", "GET")[0] == 405


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
