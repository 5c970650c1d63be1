"""Which arm is chosen, and what may keep it from being served."""

import pandas as pd
import pytest
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag

from pipeline.common.statistics import Summary
from pipeline.serving.registry import Candidate, objections
from pipeline.serving.submission import choose

MD5 = "0" * 32


def history(*finals: float, diverged: tuple[int, ...] = ()) -> pd.DataFrame:
    """Two epochs for each seed; the first validates best everywhere, and does not count."""
    rows = [
        {"seed": seed, "epoch": epoch, "loss": float("nan") if seed in diverged else 1.0, "accuracy": 0.9}
        | {"val_loss": 1.0, "val_accuracy": 0.99 if epoch == 1 else final}
        for seed, final in enumerate(finals)
        for epoch in (1, 2)
    ]
    return pd.DataFrame(rows)


def candidate(mean: float, sd: float | None = 0.01) -> Candidate:
    return Candidate("baseline", 0, mean, Summary(mean, sd, 5))


def champion(mean: float, sd: float | None = 0.01, md5: str = MD5) -> ModelVersion:
    tags = {"data_md5": md5, "arm_val_accuracy_mean": str(mean), "arm_val_accuracy_sd": "nan" if sd is None else str(sd)}
    return ModelVersion("cifar10-mlp", "7", 0, tags=[ModelVersionTag(name, value) for name, value in tags.items()])


def test_the_arm_with_the_best_mean_and_in_it_the_best_seed_after_the_last_epoch():
    chosen = choose({"baseline": history(0.50, 0.52, 0.51), "batch_norm": history(0.60, 0.40, 0.50)})
    assert (chosen.arm, chosen.seed, chosen.val_accuracy) == ("baseline", 1, 0.52)
    assert chosen.arm_val_accuracy.mean == pytest.approx(0.51)
    assert chosen.arm_val_accuracy.n == 3


def test_among_equals_the_first_wins():
    chosen = choose({"baseline": history(0.5, 0.5), "batch_norm": history(0.5, 0.5)})
    assert (chosen.arm, chosen.seed) == ("baseline", 0)


def test_an_arm_of_which_a_trial_diverged_goes_behind_one_without():
    assert choose({"baseline": history(0.5, 0.9, diverged=(0,)), "batch_norm": history(0.4, 0.4)}).arm == "batch_norm"
    assert choose({"baseline": history(0.5, 0.9, diverged=(0,)), "batch_norm": history(0.4, 0.4, diverged=(0, 1))}).arm == "baseline"


@pytest.mark.parametrize(
    ("ours", "present"),
    [
        (candidate(0.5), None),
        (candidate(0.5), champion(0.4)),
        (candidate(0.5), champion(0.505)),
        (candidate(0.5, sd=0.02), champion(0.515)),
        (candidate(0.5), champion(0.515, sd=0.02)),
        (candidate(0.5, sd=None), champion(0.5, sd=None)),
    ],
    ids=["first", "better", "within", "within its own spread", "within the other's spread", "equal, one seed each"],
)
def test_nothing_speaks_against_what_is_as_good_within_the_spread(ours, present):
    assert objections(ours, 0.39, MD5, present) == []


@pytest.mark.parametrize(
    ("ours", "present", "words"),
    [
        (candidate(0.39), None, "a linear classifier on the pixels at 39.00%"),
        (candidate(0.5), champion(0.52), "version 7, at 52.00% .* spread of 1.00 points"),
        (candidate(0.5, sd=None), champion(0.51, sd=None), "spread of 0.00 points"),
        (candidate(0.5), champion(0.1, md5="1" * 32), "other data or another split"),
        (candidate(0.5), ModelVersion("cifar10-mlp", "7", 0), "version 7, was registered by hand"),
    ],
    ids=["not above linear", "behind", "one seed each", "other data", "registered by hand"],
)
def test_what_speaks_against_it_is_said(ours, present, words):
    assert any(pd.Series([reason]).str.contains(words).all() for reason in objections(ours, 0.39, MD5, present))
