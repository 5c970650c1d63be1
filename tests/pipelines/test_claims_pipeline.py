"""The claims laboratory with DVC and MLflow, in a clone of the project, on synthetic data."""

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from checks.clone import Clone
from checks.lock import CLAIMS_PIPELINE, stale_stages
from tests.pipelines.test_pipeline import runs_of, stages_run

pytestmark = pytest.mark.laboratory


def verdicts_of(project: Clone) -> dict[str, dict]:
    return {row["id"]: row for row in json.loads((project.root / "reports/claims/verdicts.json").read_text())["claims"]}


def test_what_the_main_pipeline_trained_is_not_trained_again(laboratory):
    said = (laboratory.root / ".said").read_text()
    assert "4 of 4 trials are in the ledger already" in said  # the core study
    shared = [run for run in runs_of(laboratory) if run.info.run_name == "batch_norm-b64-s0"]
    assert len(shared) == 1
    assert {"batch_size_grid", "continued_training", "core", "train"} <= {*shared[0].data.tags["study"].split(",")}


def test_every_study_has_its_histories_and_a_row_for_each_trial(laboratory):
    studies = laboratory.root / "reports/claims/studies"
    assert {path.name for path in studies.iterdir()} == {
        *("core", "learning_rate", "initialization", "dropout", "tiny_batches", "continued_training")
    }
    trials = pd.read_csv(studies / "learning_rate/trials.csv")
    assert list(trials) == ["arm", "batch_size", "epochs", "learning_rate", "seed", "epochs_trained", "diverged", "sha256", "B2b"]
    assert len(trials) == 8
    history = pd.read_csv(studies / "continued_training/history.csv")
    assert history[history["arm"] == "batch_norm_continued"].groupby("seed").size().tolist() == [6, 6]


def test_every_claim_has_a_row_and_the_verdicts_are_a_run_with_its_table(laboratory):
    verdicts = verdicts_of(laboratory)
    assert verdicts["C0"]["verdict"] == "true of x̂ only, in training"
    assert verdicts["L1"]["n"] == 8
    assert verdicts["I1b"]["n"] == 2
    [run] = runs_of(laboratory, "verdicts")
    assert run.data.metrics["effect_I1b"] == verdicts["I1b"]["mean"]
    client = MlflowClient(f"sqlite:///{laboratory.root}/mlflow.db")
    logged = json.loads(Path(client.download_artifacts(run.info.run_id, "verdicts.json")).read_text())
    table = pd.DataFrame(logged["data"], columns=logged["columns"])
    assert table["id"].tolist() == list(verdicts)


def test_a_search_finds_the_trials_of_a_claim(laboratory):
    client = MlflowClient(f"sqlite:///{laboratory.root}/mlflow.db")
    found = client.search_runs(["1"], "tags.kind = 'trial' and tags.claims LIKE '%B2b%'")
    assert {run.data.params["learning_rate"] for run in found} == {"0.001", "0.01"}
    assert len(found) == 8
    [shared] = [run for run in runs_of(laboratory) if run.info.run_name == "batch_norm-b64-s0"]
    assert {"B1", "B2a", "I1b"} <= set(shared.data.tags["claims"].split(","))


def test_nothing_is_stale_and_nothing_to_do(laboratory):
    assert stale_stages(laboratory.root, CLAIMS_PIPELINE) == {}
    assert stages_run(laboratory.succeed("dvc", "repro", "claims/dvc.yaml")) == set()


def test_a_reader_who_disagrees_judges_anew_on_a_fresh_clone_without_data(laboratory, tmp_path):
    subprocess.run(["git", "clone", "--quiet", str(laboratory.root), str(tmp_path / "fresh")], check=True)
    fresh = Clone(tmp_path / "fresh")
    fresh.change("claims", "I1b", "smallest_effect", to=0.5, file="claims/params.yaml")
    said = fresh.succeed("dvc", "repro", "--allow-missing", "claims/dvc.yaml:report")
    run = {stage.split(":")[-1] for stage in stages_run(said)}
    assert {"verdicts", "report"} <= run
    assert not [stage for stage in run if stage.startswith(("study", "timing", "mechanisms", "fetch", "preprocess"))]
    assert verdicts_of(fresh)["I1b"]["smallest_effect"] == 0.5
    assert '"verdict"' in fresh.run("dvc", "metrics", "show", "--json", "reports/claims/effects.json").stdout
    assert verdicts_of(fresh)["I1b"]["mean"] == verdicts_of(laboratory)["I1b"]["mean"]
    assert stale_stages(fresh.root, CLAIMS_PIPELINE) == {}


def test_a_changed_table_is_seen_by_the_checks(laboratory, tmp_path):
    copy = laboratory.copy(tmp_path / "copy")
    path = copy.root / "reports/claims/studies/dropout/trials.csv"
    path.write_text(path.read_text().replace("False", "True", 1))
    assert "reports/claims/studies/dropout/trials.csv (modified)" in stale_stages(copy.root, CLAIMS_PIPELINE)["measure@dropout"]
    shutil.copyfile(laboratory.root / "reports/claims/report.md", copy.root / "reports/claims/report.html")
    done = copy.run("python", "-m", "claims.report", "--check")
    assert done.returncode == 1
    assert "report.html" in done.stderr


def test_spot_checks_cover_the_claims_trials(laboratory):
    said = laboratory.succeed("python", "-m", "checks.spot_check", "--trials", "6", "--seed", "3")
    assert said.count(": identical (") == 6
    assert "claims/" in said
