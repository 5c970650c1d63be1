"""The model as it is served. MLflow copies this file into the model and runs it there, so it imports nothing of this project.

Uint8 images `(n, 32, 32, 3)` in, for each a dict out: `class`, the likeliest, and `probabilities`, by class.
"""

from typing import Any

import keras
import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray


class ClassifierOfImages(PythonModel):
    """A Keras network with the names of its classes."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network; `safe_mode` refuses code that a file may hold."""
        self.classes = context.model_config["classes"]
        self.network = keras.saving.load_model(context.artifacts["network"], compile=False, safe_mode=True)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 - MLflow passes it
        model_input: NDArray[np.uint8],
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """Classify images."""
        # A lone image would be multiplied by another kernel, with other last bits than the same image among others.
        images = np.repeat(model_input, 2, axis=0) if len(model_input) == 1 else model_input
        rows = np.asarray(self.network(images, training=False))[: len(model_input)]
        return [{"class": self.classes[row.argmax()], "probabilities": dict(zip(self.classes, row.tolist(), strict=True))} for row in rows]


mlflow.models.set_model(ClassifierOfImages())
