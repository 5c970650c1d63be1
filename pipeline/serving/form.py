"""The form in which a network is served: with Batch Normalization folded into its weights, where that is exact and faster."""

import time
from dataclasses import dataclass
from statistics import median

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import PipelineError
from pipeline.serving.folding import fold_batch_normalization
from pipeline.training.inference import predict

TOLERANCE = 1e-4  # by which a folded network's probabilities may differ
TIMED_IMAGES = 100  # as many as the server takes at a time
PAIRS = 20


@dataclass(frozen=True)
class ServingForm:
    """A network, and in words how it came from the trained one."""

    network: keras.Sequential
    description: str


def serving_form(network: keras.Sequential, images: NDArray[np.uint8]) -> ServingForm:
    """Fold Batch Normalization away if, on uint8 `images` `(n, 32, 32, 3)`, that is exact to TOLERANCE and takes less time."""
    if not any(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers):
        return ServingForm(network, "as trained")
    try:
        folded = fold_batch_normalization(network)
    except PipelineError as error:
        return ServingForm(network, f"as trained ({error})")
    difference = float(np.abs(predict(folded, images) - predict(network, images)).max())
    ratio = _time_ratio(folded, network, images[:TIMED_IMAGES])
    measured = (
        f"probabilities of {len(images):,} validation images differ by at most {difference:.1e}, and {min(len(images), TIMED_IMAGES):,} "
        f"images take {ratio:.2f} times as long (median of {PAIRS} alternating pairs)"
    )
    if difference <= TOLERANCE and ratio < 1:
        return ServingForm(folded, f"with Batch Normalization folded into the weights: {measured}")
    return ServingForm(network, f"as trained; with Batch Normalization folded into the weights, {measured}")


def _time_ratio(one: keras.Sequential, other: keras.Sequential, images: NDArray[np.uint8]) -> float:
    """Median ratio of the two networks' times, called as the server calls them, in turns; the first pair warms up."""

    def seconds(network: keras.Sequential) -> float:
        start = time.perf_counter()
        keras.ops.convert_to_numpy(network(images, training=False))
        return time.perf_counter() - start

    ratios = []
    for turn in range(PAIRS + 1):
        times = {id(network): seconds(network) for network in ((one, other) if turn % 2 else (other, one))}
        ratios.append(times[id(one)] / times[id(other)])
    return median(ratios[1:])
