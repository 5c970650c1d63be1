"""Hash what TensorFlow computes from the same inputs, operation by operation: what differs elsewhere, rounds differently there.

Run it on another processor, under `qemu-x86_64 -cpu Haswell`, or with ONEDNN_MAX_CPU_ISA and DNNL_MAX_CPU_ISA set, and compare.
"""

import argparse
import hashlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

import pipeline.training.quiet_tensorflow  # noqa: F401  # first
from pipeline.common.command import run
from pipeline.training.settings import compute_deterministically

INNER_SIZES = (64, 256, 512, 1024, 3072)  # of a product: how many terms each of its sums has
BATCH_SIZE, UNITS = 64, 512

OPERATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "exp": tf.exp,
    "log": tf.math.log,
    "sqrt": tf.sqrt,
    "rsqrt": tf.math.rsqrt,
    "mean over the batch": lambda values: tf.reduce_mean(values, axis=0),
    "softmax": tf.nn.softmax,
}


def main() -> None:
    """Print a line for each operation."""
    argparse.ArgumentParser(prog="python -m benchmarks.rounding", description=__doc__).parse_args()
    compute_deterministically()
    random = np.random.default_rng(0)
    for size in INNER_SIZES:
        left, right = (tf.constant(random.normal(size=shape), tf.float32) for shape in ((BATCH_SIZE, size), (size, UNITS)))
        print(f"{_hash(tf.matmul(left, right))}  product, {size} terms")
    values = tf.constant(np.exp(random.normal(size=(BATCH_SIZE, UNITS))), tf.float32)
    for name, operation in OPERATIONS.items():
        print(f"{_hash(operation(values))}  {name}")


def _hash(result: tf.Tensor) -> str:
    return hashlib.sha256(result.numpy().tobytes()).hexdigest()[:12]


if __name__ == "__main__":
    run(main)
