"""The model as it is served, with the check of what it is sent. It answers alike under `mlflow models serve` and in Python.

MLflow copies this file into the model and runs it there, so it imports nothing of this project.
"""

import json

import keras
import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

MAXIMUM_IMAGES = 100  # of a JSON request, for MLflow takes 8 ms to copy and convert each
BRIGHTEST = 255
KINDS = {float: "numbers with a decimal point", str: "texts", bool: "true and false", dict: "objects", type(None): "null"}


class ImagesRefusedError(MlflowException):
    """Says in one line what is wrong with the images, by HTTP status 400 or 413."""

    def __init__(self, fault: str, shape: tuple[int, ...], status: int = 400) -> None:
        wanted = (
            f'send {{"inputs": [...]}} with 1 to {MAXIMUM_IMAGES} images, n x {" x ".join(map(str, shape))} whole numbers from 0 to 255'
        )
        super().__init__(f"{fault}; {wanted}", INVALID_PARAMETER_VALUE)
        self.status = status

    def serialize_as_json(self) -> str:
        """Return the body of the answer. MLflow's server has put the request into `message` meanwhile; here it is left out."""
        return json.dumps({"error_code": self.error_code, "message": str(self)})

    def get_http_status_code(self) -> int:
        """Return the status of the answer."""
        return self.status


def check_images(images: NDArray[np.object_], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return images of `shape`, as JSON holds them, as uint8 `(n, *shape)`.

    Raises:
        ImagesRefusedError: They are ragged or of another shape, too many or none, or hold anything but whole numbers from 0 to 255.
    """
    kinds = set(map(type, images.ravel())) - {int}
    if list in kinds:
        raise ImagesRefusedError("images should all have the same shape, and these are ragged", shape)
    if kinds:
        found = " and ".join(sorted(KINDS.get(kind, kind.__name__) for kind in kinds))
        raise ImagesRefusedError(f"pixels should be whole numbers, and there are {found}", shape)
    if images.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        raise ImagesRefusedError(f"images should have the shape (n, {wanted}), and these have {images.shape}", shape)
    if len(images) > MAXIMUM_IMAGES:
        raise ImagesRefusedError(f"a request should have 1 to {MAXIMUM_IMAGES} images, and this has {len(images):,}", shape, status=413)
    if images.min() < 0 or images.max() > BRIGHTEST:
        raise ImagesRefusedError("pixels should be 0 to 255, and these are not", shape)
    return images.astype(np.uint8)


class ImageClassifier(PythonModel):
    """A Keras network with the names of its classes."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network; `safe_mode` refuses code that a file may hold."""
        self.classes = context.model_config["classes"]
        self.network = keras.saving.load_model(context.artifacts["network"], compile=False, safe_mode=True)

    # Without type hints, because MLflow would take them for a signature of its own kind.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, ARG002
        """Classify `images`: return a dict of `class`, the likeliest, and `probabilities`, by class, for each.

        They are uint8 `(n, height, width, channels)`, or Python's objects as a request in JSON holds them.
        """
        images = model_input["images"]
        if images.dtype != np.uint8:
            images = check_images(images, self.network.input_shape[1:])
        # Fewer images would be multiplied by other kernels, with other last bits: they are repeated until there are many.
        many = max(len(images), MAXIMUM_IMAGES)
        batch = np.resize(images, (many, *images.shape[1:]))
        rows = keras.ops.convert_to_numpy(self.network(batch, training=False))[: len(images)]
        return [{"class": self.classes[row.argmax()], "probabilities": dict(zip(self.classes, row.tolist(), strict=True))} for row in rows]


mlflow.models.set_model(ImageClassifier())
