"""From raw measures to verdicts."""

import json

import numpy as np
import pandas as pd
import pytest

from claims.judging.amounts import MINUS, SPACE
from claims.judging.effects import weigh
from claims.judging.parameters import read_claims
from claims.judging.verdicts import DEFINITION, as_files, as_table, judge_claims
from claims.studies.parameters import read_studies
from tests.conftest import ROOT

STUDIES = read_studies(ROOT / "claims/params.yaml")


@pytest.fixture(scope="module")
def claims():
    return read_claims(STUDIES, ROOT / "claims/params.yaml")


def measured_trials(claims, study, value) -> pd.DataFrame:
    """A study's trials with the raw measure of each of its claims, as `value` gives it for claim, arm, level and seed."""
    declared = STUDIES.declared[study]
    rows = [
        {"arm": arm, "seed": seed, "diverged": False, **level}
        | {name: value(name, arm, level, seed) for name, claim in claims.claims.items() if claim.study == study}
        for arm in declared.arms
        for level in declared.levels()
        for seed in declared.seeds
    ]
    return pd.DataFrame(rows)


def plausible(name, arm, level, seed) -> float:
    """BN is 0.1 above no BN in everything, with a little of each seed's own."""
    return 0.4 + 0.1 * arm.startswith("batch_norm") + 0.001 * seed * len(arm)


@pytest.fixture
def measured(claims):
    blocks = np.arange(20)
    timing = pd.concat(
        pd.DataFrame({"what": "training_step", "arm": arm, "block": blocks, "milliseconds": level + 0.01 * np.sin(blocks + level)})
        for arm, level in (("baseline", 4.0), ("batch_norm", 5.0))
    )
    checks = pd.DataFrame({"check": [*DEFINITION, "inference_sd"], "layer": 1, "largest_error": 1e-7, "tolerance": 1e-5, "passes": "True"})
    studies = {study: measured_trials(claims, study, plausible) for study in STUDIES.declared}
    return {**studies, "timing": timing, "mechanisms": checks}


def row_of(rows, name) -> dict:
    return next(row for row in rows if row.id == name).model_dump()


def test_an_effect_is_the_weighted_sum_of_its_trials_within_a_seed(claims):
    weights = {("baseline", 32): 1, ("batch_norm", 32): 10, ("baseline", 2): 100, ("batch_norm", 2): 1000}
    trials = measured_trials(claims, "tiny_batches", lambda _, arm, level, seed: weights.get((arm, level["batch_size"]), 0) * (seed + 1))
    effects = weigh(claims.claims["L3"], claims.claims["L3"].effect, "L3", trials)
    assert effects.to_dict() == {seed: (10 - 1 - 1000 + 100) * (seed + 1) for seed in range(5)}


def test_an_effect_across_levels_takes_them_together(claims):
    accuracy = {("baseline", 0.01): 0.1, ("baseline", 10.0): 0.2, ("batch_norm", 0.01): 0.35, ("batch_norm", 10.0): 0.45}
    trials = measured_trials(claims, "initialization", lambda _, arm, level, seed: accuracy.get((arm, level["kernel_gain"]), 0.4))
    assert weigh(claims.claims["B4"], claims.claims["B4"].effect, "B4", trials).tolist() == pytest.approx([(0.4 - 0.1) - (0.45 - 0.35)] * 5)


def test_every_claim_has_a_row_in_the_order_of_declaration(claims, measured):
    rows = judge_claims(claims, measured)
    assert [row.id for row in rows] == list(claims.claims)
    assert all((row.verdict is None) == (row.kind == "explored") for row in rows)
    first = row_of(rows, "I1b")
    assert first["verdict"] == "supported"
    assert first["differences"] == {str(seed): pytest.approx(0.1 + 0.002 * seed) for seed in range(5)}
    assert first["low_95"] < first["mean"] < first["high_95"]


def test_another_smallest_effect_is_another_verdict(claims, measured):
    demanding = claims.model_copy(
        update={"claims": {**claims.claims, "I1b": claims.claims["I1b"].model_copy(update={"smallest_effect": 0.2})}}
    )
    row = row_of(judge_claims(demanding, measured), "I1b")
    assert row["verdict"] == "true but negligible"
    assert row["smallest_effect"] == 0.2


@pytest.mark.parametrize("smallest_effect", [0.22314355131420976, 1 / 3])
def test_a_smallest_effect_is_taken_and_told_with_all_its_digits(claims, measured, smallest_effect):
    exact = claims.model_copy(
        update={"claims": {**claims.claims, "B1": claims.claims["B1"].model_copy(update={"smallest_effect": smallest_effect})}}
    )
    assert row_of(judge_claims(exact, measured), "B1")["smallest_effect"] == smallest_effect


def test_a_row_says_in_words_what_is_taken_from_what_and_what_its_seeds_could_find(claims, measured):
    rows = {row.id: row.model_dump() for row in judge_claims(claims, measured)}
    assert rows["I1b"]["orientation"] == f"batch_norm {MINUS} baseline; above 0.00{SPACE}points it speaks for the claim"
    assert rows["I1b"]["direction"] == "validation accuracy was higher with BN"
    assert rows["B1"]["direction"] == "validation loss changed more from epoch to epoch with BN"
    assert f"{MINUS} batch_norm (dropout 0.3) + batch_norm (dropout 0.0)" in rows["L2"]["orientation"]
    assert f"above {MINUS}1.00{SPACE}points" in rows["B3b"]["orientation"]
    assert f"power of {rows['I1b']['power']:.2f}; " in rows["I1b"]["power_note"]
    assert [rows["C0"][name] for name in ("orientation", "direction", "power_note")] == [None] * 3


def test_a_seed_without_a_measure_is_left_out_and_named(claims, measured):
    core = measured["core"]
    core.loc[(core["arm"] == "baseline") & (core["seed"] == 3), "I1b"] = np.nan
    row = row_of(judge_claims(claims, measured), "I1b")
    assert (row["n"], row["excluded"], "3" in row["differences"]) == (4, [3], False)


def test_nothing_measured_gives_no_verdict_but_a_row(claims, measured):
    measured["core"]["B1"] = np.nan
    row = row_of(judge_claims(claims, measured), "B1")
    assert (row["n"], row["mean"], row["verdict"]) == (0, None, "inconclusive")


def test_the_exact_claim_rests_on_its_checks(claims, measured):
    assert row_of(judge_claims(claims, measured), "C0")["verdict"] == "true of x̂ only, in training"
    measured["mechanisms"].loc[0, "passes"] = "False"
    assert row_of(judge_claims(claims, measured), "C0")["verdict"] == "not as stated"


def test_overhead_is_a_ratio_of_medians(claims, measured):
    row = row_of(judge_claims(claims, measured), "L1")
    assert np.exp(row["mean"]) == pytest.approx(5 / 4, rel=0.01)
    assert (row["n"], row["verdict"], row["p_above"]) == (20, "supported", None)


def test_the_files_are_strict_json_and_a_flat_table(claims, measured):
    rows = judge_claims(claims, measured)
    files = as_files("default", 0.05, rows)
    assert json.loads(files["verdicts.json"], parse_constant=pytest.fail)["claims"] == [row.model_dump() for row in rows]
    assert json.loads(files["effects.json"])["I1b"] == {"verdict": "supported", "mean": row_of(rows, "I1b")["mean"]}
    table = as_table(rows)
    assert table.set_index("id").loc["I1b", "differences"].startswith("0: 0.1; 1: 0.102")
    assert files["verdicts.csv"].count("\n") == len(rows) + 1
