"""When numbers count as the same."""

import math

import numpy as np
import pandas as pd
import pytest

from checks.comparison import DRIFT, IDENTICAL, SPREADS, WITHIN, compare_histories, history_tolerances, judge, unlike_environment
from pipeline.training.environment import result_environment

SEEDS, EPOCHS = 5, 8


def history(arm="batch_norm", seed=0, epochs=EPOCHS, **columns) -> pd.DataFrame:
    random = np.random.default_rng([len(arm), seed])
    labels = {"study": "train", "arm": arm, "batch_size": 64, "seed": seed, "epoch": np.arange(1, epochs + 1)}
    measured = {"loss": random.normal(1.0, 0.01, epochs), "accuracy": random.normal(0.5, 0.02, epochs)}
    return pd.DataFrame({**labels, **measured, **columns})


@pytest.fixture
def committed() -> pd.DataFrame:
    return pd.concat([history(arm, seed) for arm in ("baseline", "batch_norm") for seed in range(SEEDS)], ignore_index=True)


def verdicts(compared: pd.DataFrame) -> dict[str, int]:
    return compared["verdict"].value_counts().to_dict()


def test_the_same_training_is_identical_in_every_value(committed):
    compared = compare_histories(committed, history(seed=2), None)
    assert verdicts(compared) == {IDENTICAL: 2 * EPOCHS}
    assert set(compared["seed"]) == {2}


def test_the_last_bit_of_one_value_is_a_drift_where_bits_must_agree(committed):
    changed = history(seed=2)
    changed.loc[3, "loss"] = np.nextafter(changed.loc[3, "loss"], 2)
    compared = compare_histories(committed, changed, None)
    [row] = compared[compared["verdict"] == DRIFT].to_dict("records")
    assert (row["epoch"], row["metric"]) == (4, "loss")
    assert verdicts(compare_histories(committed, changed, history_tolerances(committed, {})))[WITHIN] == 1


def test_another_seeds_curve_is_a_drift_where_bits_must_agree(committed):
    compared = compare_histories(committed, history(seed=1).assign(seed=2), None)
    assert verdicts(compared) == {DRIFT: 2 * EPOCHS}


@pytest.mark.parametrize("epochs", [EPOCHS - 1, EPOCHS + 1])
def test_an_epoch_too_few_or_too_many_is_a_drift(committed, epochs):
    shifted = (
        history(seed=2).head(epochs) if epochs < EPOCHS else pd.concat([history(seed=2), history(seed=2).tail(1).assign(epoch=epochs)])
    )
    compared = compare_histories(committed, shifted, history_tolerances(committed, {}))
    assert verdicts(compared)[DRIFT] == 2


def test_a_metric_that_only_one_side_has_is_a_drift(committed):
    compared = compare_histories(committed, history(seed=2, val_loss=1.0), None)
    assert verdicts(compared) == {IDENTICAL: 2 * EPOCHS, DRIFT: EPOCHS}


def test_metrics_that_an_arm_does_not_have_are_not_compared(committed):
    compared = compare_histories(committed.assign(val_loss_recalibrated=math.nan), history(seed=2), None)
    assert verdicts(compared) == {IDENTICAL: 2 * EPOCHS}


def test_a_trial_that_diverged_in_the_same_way_is_identical():
    loss = [1.0] * (EPOCHS - 1) + [math.nan]
    diverged = history(seed=2, loss=loss)
    assert verdicts(compare_histories(diverged, diverged, None)) == {IDENTICAL: 2 * EPOCHS}
    assert judge(1.0, math.nan, 100) == DRIFT


def test_the_tolerance_is_five_spreads_of_a_difference_or_what_instruction_sets_differ_by(committed):
    tolerances = history_tolerances(committed, {"accuracy": 0.9}).set_index(["arm", "epoch", "metric"])["tolerance"]
    of_arm = committed[committed["arm"] == "baseline"].groupby("epoch")["loss"].var()
    assert tolerances["baseline", 4, "loss"] == pytest.approx(SPREADS * math.sqrt(of_arm.loc[2:6].mean()))
    assert tolerances["baseline", 1, "loss"] == pytest.approx(SPREADS * math.sqrt(of_arm.loc[1:3].mean()))
    assert tolerances["baseline", 4, "accuracy"] == 0.9


def test_a_trial_that_diverged_widens_no_tolerance(committed):
    with_diverged = pd.concat([committed, history(seed=SEEDS, loss=np.geomspace(1e3, 1e9, EPOCHS))], ignore_index=True)
    pd.testing.assert_frame_equal(history_tolerances(with_diverged, {}), history_tolerances(committed, {}))


def test_what_lies_outside_the_spread_of_seeds_is_a_drift_everywhere(committed):
    tolerances = history_tolerances(committed, {})
    assert DRIFT not in verdicts(compare_histories(committed, history(seed=1).assign(seed=2), tolerances))
    broken = history(seed=2)
    broken["accuracy"] -= 0.3
    assert verdicts(compare_histories(committed, broken, tolerances))[DRIFT] == EPOCHS


def test_a_single_seed_has_no_spread_to_hide_in(committed):
    alone = committed[(committed["arm"] == "baseline") & (committed["seed"] == 0)]
    changed = alone.assign(loss=alone["loss"] + 0.01)
    assert verdicts(compare_histories(alone, changed, history_tolerances(alone, {})))[DRIFT] == EPOCHS
    assert verdicts(compare_histories(alone, changed, history_tolerances(alone, {"loss": 0.02})))[WITHIN] == EPOCHS


def test_every_difference_of_the_environment_is_named():
    here = result_environment()
    assert unlike_environment(here) == []
    assert unlike_environment({**here, "keras": "0", "gpu": "none"}) == ["gpu: none → -", f"keras: 0 → {here['keras']}"]
