"""Small real things to test on: a synthetic data set, and a clone of the project that uses it."""

import os
from pathlib import Path

# Before anything of the project is imported: what the caller has set must not reach the tests.
for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DVC_", "TRIAL_", "PYTHONDONTWRITEBYTECODE"))]:
    del os.environ[name]

# ruff: noqa: E402
import numpy as np
import pytest

from checks.clone import ROOT, Clone, copy_work_tree, shrink_to_synthetic_data
from pipeline.dataset import Examples
from pipeline.parameters import Parameters, load_parameters


@pytest.fixture(scope="session")
def parameters() -> Parameters:
    return load_parameters(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def examples() -> tuple[Examples, Examples]:
    """Training (210) and validation (90) examples that a network can learn."""
    random = np.random.default_rng(0)
    labels = (np.arange(300) % 10).astype(np.uint8)
    patterns = random.integers(0, 256, (10, 32, 32, 3))
    images = (0.5 * patterns[labels] + random.integers(0, 128, (300, 32, 32, 3))).astype(np.uint8)
    return Examples(images[:210], labels[:210]), Examples(images[210:], labels[210:])


@pytest.fixture
def processed(tmp_path: Path, examples) -> Path:
    """The folder that `preprocess` would write for those examples."""
    for name, split in zip(("train", "validation"), examples, strict=True):
        folder = tmp_path / "data/processed" / name
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", split.images)
        np.save(folder / "labels.npy", split.labels)
    return tmp_path / "data/processed"


def clone_project(root: Path) -> Clone:
    """Copy the project, shrunken, onto synthetic data."""
    clone = copy_work_tree(root)
    shrink_to_synthetic_data(clone, root.parent / f"{root.name}-mirror")
    return clone
