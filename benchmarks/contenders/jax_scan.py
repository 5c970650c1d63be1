"""JAX: a block of steps as one compiled `lax.scan`, all of it in XLA."""

import json
import os
import sys

if __name__ == "__main__" and (core := json.loads(sys.argv[1])["core"]) is not None:
    os.sched_setaffinity(0, {core})  # before the import: JAX makes one thread per core and has no setting for it

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders.work import ADAM, BATCH_NORM, Contender, Work, serve


def build(work: Work) -> Contender:
    """Keep parameters, moments and moving averages in one tree. Each call reuses its memory."""
    normalizes = work.normalization == "batch"
    layers = [{"kernel": jnp.asarray(kernel), "bias": jnp.zeros(kernel.shape[1])} for kernel in work.kernels]
    for layer in layers[:-1] if normalizes else []:
        layer |= {"gamma": jnp.ones_like(layer["bias"]), "beta": jnp.zeros_like(layer["bias"])}
    zeros = jax.tree.map(jnp.zeros_like, layers)
    averages = [(jnp.zeros(kernel.shape[1]), jnp.ones(kernel.shape[1])) for kernel in work.kernels[:-1]] if normalizes else []
    state = (layers, zeros, jax.tree.map(jnp.zeros_like, layers), averages, jnp.float32(0))
    images, labels = jnp.asarray(work.images).reshape(len(work.labels), -1), jnp.asarray(work.labels, jnp.int32)
    run = jax.jit(_run_block, donate_argnums=0)

    def train(order: NDArray[np.int64]) -> float:
        nonlocal state
        batches = jnp.asarray(order.reshape(-1, work.batch_size))
        state, losses, _ = run(state, images, labels, batches)
        return float(losses.mean())

    return (lambda order: order), {"train": train}


def _run_block(state, images, labels, batches):  # noqa: ANN001, ANN202 - JAX trees
    def step(state, batch):  # noqa: ANN001, ANN202
        layers, means, squares, averages, count = state
        (loss, (averages, correct)), gradients = jax.value_and_grad(_loss, has_aux=True)(layers, averages, images[batch], labels[batch])
        learning_rate, (beta_1, beta_2), epsilon = ADAM
        count += 1
        rate = learning_rate * jnp.sqrt(1 - beta_2**count) / (1 - beta_1**count)
        means = jax.tree.map(lambda m, g: beta_1 * m + (1 - beta_1) * g, means, gradients)
        squares = jax.tree.map(lambda v, g: beta_2 * v + (1 - beta_2) * g * g, squares, gradients)
        layers = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + epsilon), layers, means, squares)
        return (layers, means, squares, averages, count), (loss, correct)

    state, (losses, correct) = jax.lax.scan(step, state, batches)
    return state, losses, correct.sum()


def _loss(layers, averages, pixels, targets):  # noqa: ANN001, ANN202
    features, new_averages = pixels.astype(jnp.float32) / 255, []
    for index, layer in enumerate(layers):
        features = features @ layer["kernel"] + layer["bias"]
        if index < len(layers) - 1:
            features = jax.nn.relu(features)
        if "gamma" in layer:
            mean, variance = features.mean(axis=0), features.var(axis=0)
            kept, epsilon = BATCH_NORM
            new_averages.append(tuple(kept * old + (1 - kept) * new for old, new in zip(averages[index], (mean, variance), strict=True)))
            features = (features - mean) * jax.lax.rsqrt(variance + epsilon) * layer["gamma"] + layer["beta"]
    losses = -jnp.take_along_axis(jax.nn.log_softmax(features), targets[:, None], axis=1)
    return losses.mean(), (new_averages, (features.argmax(axis=1) == targets).sum())


if __name__ == "__main__":
    serve(build)
