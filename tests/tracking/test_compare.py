"""Arms and levels side by side, from a ledger's trials."""

import re
import sys

import pandas as pd
import pytest

from pipeline.common.errors import PipelineError
from pipeline.compare import compare, main
from pipeline.tracking import ledger as tracking
from pipeline.tracking.ledger import Ledger
from pipeline.trials.key import code_fingerprint


def trial(arm: str, seed: int, val_accuracy: float, study: str = "train", diverged: float = 0.0, start_time: int = 0, **parameters) -> dict:
    described = {"seed": seed, "batch_size": 64, "normalization": "none" if arm == "baseline" else "batch", **parameters}
    return {
        "study": study,
        "arm": arm,
        "seed": seed,
        "start_time": start_time,
        "data_md5": "",
        "code": "",
        "diverged": diverged,
        "val_accuracy": val_accuracy,
        **{f"params.{name}": str(value) for name, value in described.items()},
    }


def rows(trials: list[dict], **asked) -> dict[str, dict]:
    table = compare(pd.DataFrame(trials), "train", ["val_accuracy"], **asked)
    return {row["cell"]: row for row in table.to_dict("records")}


TRIALS = [trial("batch_norm", seed, 0.5 + 0.01 * seed) for seed in (0, 1)] + [trial("baseline", seed, 0.4) for seed in (0, 1)]


def test_arms_have_mean_and_spread_and_their_paired_difference():
    table = rows(TRIALS)
    assert list(table) == ["baseline", "batch_norm"]
    assert table["batch_norm"]["mean"] == pytest.approx(0.505)
    assert table["batch_norm"]["sd"] == pytest.approx(0.01 / 2**0.5)
    assert table["batch_norm"]["difference"] == pytest.approx(0.105)
    assert table["batch_norm"]["low_95"] < 0.105 < table["batch_norm"]["high_95"]
    assert table["batch_norm"]["pairs"] == 2
    assert pd.isna(table["baseline"]["difference"])


def test_another_reference_turns_the_difference_round():
    assert rows(TRIALS, reference="batch_norm")["baseline"]["difference"] == pytest.approx(-0.105)


def test_arms_are_compared_at_the_same_level():
    trials = [
        trial(arm, seed, accuracy, dropout=dropout)
        for arm, dropout, accuracy in (("baseline", 0.0, 0.4), ("baseline", 0.3, 0.2), ("batch_norm", 0.0, 0.5), ("batch_norm", 0.3, 0.5))
        for seed in (0, 1)
    ]
    table = rows(trials)
    assert table["batch_norm, dropout 0.3"]["reference"] == "baseline, dropout 0.3"
    assert table["batch_norm, dropout 0.3"]["difference"] == pytest.approx(0.3)


def test_levels_of_one_arm_are_compared_with_the_smallest():
    table = rows([trial("batch_norm", seed, size / 1000, batch_size=size) for size in (128, 64, 32) for seed in (0, 1)])
    assert list(table) == [f"batch_norm, batch_size {size}" for size in (32, 64, 128)]
    assert table["batch_norm, batch_size 128"]["reference"] == "batch_norm, batch_size 32"


def test_of_each_seed_the_newest_counts():
    older, newer = trial("baseline", 0, 0.9, start_time=-1), trial("baseline", 1, 0.6, study="batch_size_grid,train", start_time=1)
    table = rows([*TRIALS, older, newer])
    assert (table["baseline"]["n"], table["baseline"]["mean"]) == (2, pytest.approx(0.5))


def test_trials_of_earlier_code_or_of_other_data_are_left_out():
    old = [row | {"val_accuracy": 0.9, "start_time": 5} for row in TRIALS]
    table = rows([*(row | {"code": "other"} for row in old), *(row | {"code": code_fingerprint()} for row in TRIALS)])
    assert table["baseline"]["mean"] == pytest.approx(0.4)
    table = rows([*old, *(row | {"data_md5": "new", "start_time": 9} for row in TRIALS)])
    assert (table["baseline"]["mean"], table["baseline"]["n"]) == (pytest.approx(0.4), 2)


def test_a_trial_that_lacks_what_another_has_counts_all_the_same():
    lacking = [{name: value for name, value in row.items() if name != "diverged"} for row in TRIALS]
    assert rows(lacking)["baseline"]["n"] == 2
    assert rows([*lacking[:2], *TRIALS[2:]])["batch_norm"]["n"] == 2
    added = [*TRIALS, trial("baseline", 5, 0.3, dropout=0.5)]
    assert sum(row["n"] for row in rows(added).values()) == 5


def test_what_diverged_is_counted_and_in_no_mean():
    table = rows([*TRIALS, trial("baseline", 2, 0.0, diverged=1.0), trial("batch_norm", 2, 0.6)])
    assert (table["baseline"]["n"], table["baseline"]["diverged"], table["baseline"]["mean"]) == (2, 1, pytest.approx(0.4))
    assert table["batch_norm"]["pairs"] == 2


def test_without_moving_averages_recalibrated_is_plain():
    trials = pd.DataFrame([row | {"val_accuracy_recalibrated": 0.7 if row["arm"] == "batch_norm" else None} for row in TRIALS])
    table = compare(trials, "train", ["val_accuracy_recalibrated"]).set_index("cell")
    assert table.loc["batch_norm", "difference"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("metric", "reference", "words"),
    [
        ("nonsense", None, "--metric nonsense: .* there are diverged, val_accuracy"),
        ("params.seed", None, "--metric params.seed: .* there are diverged, val_accuracy"),
        ("start_time", None, "--metric start_time"),
        ("val_accuracy", "nonsense", "--reference nonsense: .* there are batch_norm, baseline"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(metric, reference, words):
    with pytest.raises(PipelineError, match=words):
        compare(pd.DataFrame(TRIALS), "train", [metric], reference)


def compare_in_ledger(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    main()


def log_finished(ledger: Ledger, study: str, arm: str = "batch_norm", seed: int = 0, **tags: str) -> str:
    described = {"kind": "trial", "arm": arm, "study": study, "data_md5": "", **tags}
    run_id = ledger.client.create_run(ledger.experiment_id, tags=described).info.run_id
    ledger.client.log_param(run_id, "seed", seed)
    ledger.log_summary(run_id, {"val_accuracy": 0.5 + 0.1 * seed})
    ledger.client.set_terminated(run_id)
    return run_id


def test_a_study_is_read_from_the_ledger_and_no_other_whose_name_holds_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    ledger = Ledger()
    for study, seed in (("train", 0), ("batch_size_grid,train", 1), ("continued_training", 2), ("train_long", 3)):
        log_finished(ledger, study, seed=seed)
    assert ledger.finished_trials("train")["seed"].tolist() == [0, 1]
    compare_in_ledger(monkeypatch, "--metric", "val_accuracy", "--format", "csv")
    assert capsys.readouterr().out.splitlines()[1].startswith("batch_norm,val_accuracy,0.55,")


def test_a_study_of_more_trials_than_a_page_is_whole_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(tracking, "RUNS_PER_PAGE", 2)
    ledger = Ledger()
    for seed in range(5):
        log_finished(ledger, "train", seed=seed)
    assert ledger.finished_trials("train")["seed"].tolist() == [0, 1, 2, 3, 4]


def test_a_study_that_is_not_in_the_ledger_is_named_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    log_finished(Ledger(), "batch_size_grid,train")
    for study in ("nonsense", "it's", "50%", "a\\b", ""):
        words = rf"--study {re.escape(study)}: no finished trial of it is in the ledger; the newest are of batch_size_grid, train"
        with pytest.raises(PipelineError, match=words):
            compare_in_ledger(monkeypatch, "--study", study)


def test_an_empty_ledger_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with pytest.raises(PipelineError, match="run `make repro`"):
        compare_in_ledger(monkeypatch)


def test_runs_that_somebody_logged_by_hand_are_no_trials(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    ledger = Ledger()
    for tags in ({"kind": "trial"}, {"study": "core"}, {"study": "core", "kind": "trial"}):
        run = ledger.client.create_run(ledger.experiment_id, tags=tags)
        ledger.client.set_terminated(run.info.run_id, "FINISHED")
    assert ledger.finished_trials("core").empty
    assert ledger.newest_studies() == []
    ledger.tag_claims({"B1": "core"})
