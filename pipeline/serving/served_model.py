"""The model as it is served. MLflow copies this file into the model and runs it there, so it imports nothing of this project.

Uint8 images `(n, 32, 32, 3)` in, for each a dict out: `class`, the likeliest, and `probabilities`, by class.
"""

import keras
import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class ClassifierOfImages(PythonModel):
    """A Keras network with the names of its classes."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network; `safe_mode` refuses code that a file may hold."""
        self.classes = context.model_config["classes"]
        self.network = keras.saving.load_model(context.artifacts["network"], compile=False, safe_mode=True)

    # Without type hints, because MLflow would take them for a signature of its own kind.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, ARG002
        """Classify images: uint8 `(n, 32, 32, 3)` in, for each a dict of `class` and `probabilities` out."""
        # A lone image would be multiplied by another kernel, with other last bits than the same image among others.
        images = np.repeat(model_input, 2, axis=0) if len(model_input) == 1 else model_input
        rows = keras.ops.convert_to_numpy(self.network(images, training=False))[: len(model_input)]
        return [{"class": self.classes[row.argmax()], "probabilities": dict(zip(self.classes, row.tolist(), strict=True))} for row in rows]


mlflow.models.set_model(ClassifierOfImages())
