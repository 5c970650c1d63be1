"""Looks inside a network while it trains: how its layers move, and what that does to gradients, loss and units."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pipeline.images.arrays import Examples

DISTANCE_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
NEARLY_DEAD, ALWAYS_ON = 0.01, 0.99  # shares of images on which a unit is active

Row = dict[str, Any]
Array = NDArray[np.float64]
LossAndGradients = Callable[[], tuple[tf.Tensor, list[tf.Tensor]]]


class LayerPass(NamedTuple):
    """What one layer took in and gave out for a batch."""

    layer: keras.Layer
    inputs: tf.Tensor
    outputs: tf.Tensor


def trace(model: keras.Sequential, images: tf.Tensor, *, batch_statistics: bool) -> list[LayerPass]:
    """Pass uint8 images `(n, 32, 32, 3)` through each layer up to the logits, with dropout off.

    Batch Normalization takes the statistics of these images, as in training (and then moves its averages), or its moving averages.
    """
    passes = []
    features = images
    for layer in model.layers[:-1]:
        by_batch = batch_statistics and isinstance(layer, keras.layers.BatchNormalization)
        passes.append(LayerPass(layer, features, layer(features, training=by_batch)))
        features = passes[-1].outputs
    return passes


@contextmanager
def restoring(variables: Sequence[keras.Variable]) -> Iterator[None]:
    """Set the variables back to the values that they had before the block."""
    values = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        _assign(variables, values)


class Probes:
    """Samples one network in training. The network and its optimizer stay as they are.

    Activations are taken on `images`, and gradients on `batch`, training examples; landscapes along the step of the
    optimizer, `optimizer_name` in the table, and down the gradient over the same distances. All passes take batch
    statistics, as training does: in the first hundreds of updates, moving averages still hold most of their start values,
    and would show how they catch up instead of how the layers move.
    """

    def __init__(
        self,
        model: keras.Sequential,
        optimizer: keras.optimizers.Optimizer,
        optimizer_name: str,
        images: NDArray[np.uint8],
        batch: Examples,
    ) -> None:
        self._model, self._optimizer, self._optimizer_name = model, optimizer, optimizer_name
        self._images = tf.constant(images)
        self._loss_and_gradients = build_loss_and_gradients(model, batch)
        self._last: list[Array] = []

    def sample(self) -> dict[str, list[Row]]:
        """Return the rows of this moment, by table. Drift is since the last sample, and has no rows in the first."""
        with restoring([*self._model.variables, *self._optimizer.variables]):
            passes = trace(self._model, self._images, batch_statistics=True)
            relus = [outputs for layer, _, outputs in passes if isinstance(layer, keras.layers.ReLU)]
            into_dense = [np.asarray(inputs, np.float64) for layer, inputs, _ in passes if isinstance(layer, keras.layers.Dense)]
            before, self._last = self._last, into_dense[1:]
            _, gradients = self._loss_and_gradients()
            step = find_step(self._optimizer, self._model.trainable_variables, gradients)
            as_far = [-tf.linalg.global_norm(step) / tf.linalg.global_norm(gradients) * value for value in gradients]
            return {
                "drift": [{"layer": layer, **measure_drift(*pair)} for layer, pair in enumerate(zip(before, self._last, strict=False), 1)],
                "units": [{"layer": layer, **measure_units(outputs)} for layer, outputs in enumerate(relus, start=1)],
                "gradient_shift": measure_gradient_shift(self._model, self._loss_and_gradients, step),
                "landscape": [
                    {"direction": direction, **row}
                    for direction, distance in {"gradient": as_far, self._optimizer_name: step}.items()
                    for row in measure_landscape(self._model, self._loss_and_gradients, distance)
                ],
            }


def build_loss_and_gradients(model: keras.Sequential, batch: Examples) -> LossAndGradients:
    """Compile the mean cross-entropy of one batch, in training mode with dropout off, and its gradients by the trainable variables."""
    images, labels = tf.constant(batch.images), tf.constant(batch.labels, tf.int32)

    @tf.function
    def loss_and_gradients() -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            logits = trace(model, images, batch_statistics=True)[-1].outputs
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        return loss, tape.gradient(loss, model.trainable_variables)

    return loss_and_gradients  # type: ignore[no-any-return]


def find_step(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable], gradients: Sequence[tf.Tensor]
) -> list[NDArray[np.float32]]:
    """Return by how much the optimizer would move each variable now, without moving it."""
    start = [variable.numpy() for variable in variables]
    with restoring([*variables, *optimizer.variables]):
        optimizer.apply(gradients, variables)
        return [variable.numpy() - value for variable, value in zip(variables, start, strict=True)]


def measure_drift(before: Array, now: Array) -> Row:
    """Return how far the distribution of a layer's outputs, `(n, units)`, has moved: the shift that Ioffe & Szegedy (2015) name.

    Means over the units that vary in both samples: of |Δμ| / σ, where σ² is the mean of both variances (by the σ before,
    a unit that has just become active would count for hundreds), and of |Δ ln σ|.
    """
    sds = np.stack([before.std(axis=0), now.std(axis=0)])  # in float64 exactly 0 for a unit that does not vary
    varies = (sds > 0).all(axis=0)
    if not varies.any():
        return {"mean_shift": np.nan, "log_sd_shift": np.nan}
    sd_before, sd = sds[:, varies]
    mean_shift = np.abs(now.mean(axis=0) - before.mean(axis=0))[varies] / np.sqrt((sd_before**2 + sd**2) / 2)
    return {"mean_shift": mean_shift.mean(), "log_sd_shift": np.abs(np.log(sd / sd_before)).mean()}


def measure_units(outputs: tf.Tensor) -> Row:
    """Return the shares of units whose ReLU outputs, `(n, units)`, are never, rarely but not never, and nearly always above 0."""
    active = (np.asarray(outputs) > 0).mean(axis=0)
    rarely = (active > 0) & (active < NEARLY_DEAD)
    return {"dead": (active == 0).mean(), "nearly_dead": rarely.mean(), "always_on": (active > ALWAYS_ON).mean()}


def measure_gradient_shift(model: keras.Sequential, loss_and_gradients: LossAndGradients, step: Sequence[NDArray[np.float32]]) -> list[Row]:
    """Return how a Dense layer's gradient changes when the layers below it take their `step` and it does not.

    Santurkar et al. (2018), definition 2.1, with the gradients G and G′ of the kernel: ‖G − G′‖ / ‖G‖ and their cosine.
    The lowest layer has none below. The last layer gives the logits.
    """
    variables = model.trainable_variables  # from the lowest layer to the highest
    start = [variable.numpy() for variable in variables]
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    with restoring(model.variables):
        _, gradients = loss_and_gradients()
        rows = []
        for layer, kernel in enumerate(kernels[1:], start=2):
            own = next(index for index, variable in enumerate(variables) if variable is kernel)
            _assign(variables[:own], [value + by for value, by in zip(start[:own], step[:own], strict=True)])
            gradient, shifted = gradients[own], loss_and_gradients()[1][own]
            norm = tf.norm(gradient)
            cosine = tf.reduce_sum(gradient * shifted) / (norm * tf.norm(shifted))
            rows.append({"layer": layer, "relative_change": float(tf.norm(gradient - shifted) / norm), "cosine": float(cosine)})
    return rows


def measure_landscape(model: keras.Sequential, loss_and_gradients: LossAndGradients, step: Sequence[tf.Tensor]) -> list[Row]:
    """Return what loss and gradient g become at the weights θ + d, for distances d that are multiples of `step`.

    `gradient_change` is ‖g(θ + d) − g(θ)‖ / ‖g(θ)‖, and `effective_smoothness` ‖g(θ + d) − g(θ)‖ / ‖d‖
    (Santurkar et al. 2018, section 3.1).
    """
    variables = model.trainable_variables
    start = [variable.numpy() for variable in variables]
    with restoring(model.variables):
        _, gradients = loss_and_gradients()
        rows = []
        for factor in DISTANCE_FACTORS:
            _assign(variables, [value + factor * by for value, by in zip(start, step, strict=True)])
            loss, moved = loss_and_gradients()
            change = tf.linalg.global_norm([there - here for there, here in zip(moved, gradients, strict=True)])
            rows.append(
                {
                    "distance_factor": factor,
                    "loss": float(loss),
                    "gradient_change": float(change / tf.linalg.global_norm(gradients)),
                    "effective_smoothness": float(change / (factor * tf.linalg.global_norm(step))),
                }
            )
    return rows


def _assign(variables: Sequence[keras.Variable], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
