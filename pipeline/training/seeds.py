"""Every random number of a trial, from the trial's seed, what it is for, and an index."""

import hashlib

import numpy as np


def seed_sequence(seed: int, purpose: str, index: int = 0) -> np.random.SeedSequence:
    """Derive an independent stream: the same three arguments give the same numbers in every arm."""
    purpose_key = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big")
    return np.random.SeedSequence(seed, spawn_key=(purpose_key, index))


def derived_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Derive a 31-bit seed, for libraries that take an integer."""
    return int(seed_sequence(seed, purpose, index).generate_state(1)[0] >> 1)


def data_order(seed: int, epoch: int, examples: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Order in which an epoch visits the training examples, int64 `(examples,)`."""
    return np.random.default_rng(seed_sequence(seed, "data order", epoch)).permutation(examples)
