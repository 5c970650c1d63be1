"""The recipes of docs/changing.md, run as they stand there in copies of a small project with results."""

import functools
import http.server
import json
import shutil
import tarfile
import threading
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from checks.clone import STUDIES, Clone
from checks.edits import PAGE, Recipe, make_edit, read_recipes, write_cifar100
from checks.lock import PIPELINES
from tests.conftest import ROOT, Project, clone_project
from tests.pipelines.test_pipeline import runs_of, stages_run

RECIPES = read_recipes(ROOT / PAGE)
TRAIN = {"train@baseline", "train@batch_norm", "batch_size_grid@32", "batch_size_grid@64"}
STUDY = {f"study@{study}" for study in STUDIES}
MEASURE = {f"measure@{study}" for study in STUDIES}
JUDGED = {"verdicts", "report"}
NETWORK, PARAMETERS, CLAIMS = "pipeline/training/network.py", "params.yaml", "claims/params.yaml"

# What each change may touch, and which stages of dvc.yaml and of claims/dvc.yaml it may make stale.
COSTS = {
    "add a level": ({PARAMETERS}, {"batch_size_grid@16", "report"}, set()),
    "add a mirror": ({PARAMETERS}, {"fetch"}, set()),
    "run trials on a cluster": ({PARAMETERS}, set(), set()),
    "add a normaliser": ({NETWORK, PARAMETERS}, {*TRAIN, "train@group_norm", "evaluate", "report"}, STUDY),
    "add a network": ({NETWORK, PARAMETERS}, {*TRAIN, "train@conv", "evaluate", "report"}, STUDY),
    "add a metric of each epoch": (
        {"pipeline/training/metric_names.py", "pipeline/training/metrics.py"},
        {*TRAIN, "evaluate", "report"},
        STUDY,
    ),
    "add a study and its claim": ({CLAIMS}, set(), {"study@momentum", "measure@momentum", *MEASURE, *JUDGED}),
    "add a kind of measure and a claim that uses it": ({"claims/judging/kinds.py", CLAIMS}, set(), MEASURE | JUDGED),
    "change a sentence of the notebook's report": ({"pipeline/reporting/templates/report.md.jinja"}, {"report"}, set()),
    "change a sentence of the claims' report": ({"claims/reporting/templates/claims.md.jinja"}, set(), {"report"}),
    "add a DVC stage": ({"dvc.yaml", "pipeline/best_epochs.py"}, {"best_epochs"}, set()),
    "tag every trial in MLflow": ({"pipeline/tracking/names.py"}, set(), set()),
    "use another data set": (
        {"pipeline/images/cifar100.py", "pipeline/images/datasets.py", PARAMETERS},
        {"fetch", "preprocess"},  # what reads their outputs is stale as soon as those have changed
        set(),
    ),
}


def follow(project: Clone, recipe: Recipe) -> str:
    project.succeed("bash", "-euo", "pipefail", "-c", recipe.edit)
    for command in (["ruff", "check", "pipeline", "claims"], ["ruff", "format", "--check", "pipeline", "claims"]):
        project.succeed(*command)
    return project.succeed(*recipe.repro.split())


def verdicts_of(project: Clone) -> dict[str, dict]:
    return {row["id"]: row for row in json.loads((project.root / "reports/claims/verdicts.json").read_text())["claims"]}


@pytest.fixture(scope="module")
def locked(tmp_path_factory) -> Project:
    """A project of which DVC believes that all was built: every output is there, empty, and committed to the locks."""
    project = clone_project(tmp_path_factory.mktemp("changes") / "project")
    program = "from dvc.repo import Repo; index = Repo().index; print(*(it.fs_path for it in (*index.outs, *index.deps)), sep='\\n')"
    for path in map(Path, project.succeed("python", "-c", program).splitlines()):
        if path.exists():
            continue
        file = path if path.suffix else path / "made"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path.name)
    project.succeed("dvc", "commit", "--quiet", "--force", *PIPELINES)
    project.commit("results")
    return project


@pytest.fixture
def in_laboratory(laboratory, tmp_path) -> Clone:
    """A copy with results of both pipelines, and a lookalike of CIFAR-100 in the home directory."""
    copy = laboratory.copy(tmp_path / "copy")
    copy.environment["HOME"] = str(write_cifar100(tmp_path))
    return copy


@pytest.fixture
def in_pipeline(built, tmp_path) -> Clone:
    """A copy with results of dvc.yaml."""
    return built.copy(tmp_path / "copy")


def test_every_change_of_the_page_is_tested():
    assert RECIPES.keys() == COSTS.keys()
    assert (ROOT / PAGE).read_text().count("# recipe: ") == len(RECIPES)


@pytest.mark.parametrize("change", COSTS)
def test_a_change_touches_and_makes_stale_no_more_than_it_must(locked, tmp_path, change):
    touched, *stale = COSTS[change]
    project = locked.copy(tmp_path / "copy")
    project.environment["HOME"] = str(write_cifar100(tmp_path))
    cost = make_edit(project, RECIPES[change])
    assert set(cost["touched"]) == touched
    assert [set(cost["stale"][pipeline]) for pipeline in PIPELINES] == stale


@pytest.mark.changes
def test_a_level_is_trained_and_nothing_else(in_pipeline):
    before = {run.info.run_id for run in runs_of(in_pipeline)}
    assert stages_run(follow(in_pipeline, RECIPES["add a level"])) == {"batch_size_grid@16", "report"}
    new = {run.info.run_name for run in runs_of(in_pipeline) if run.info.run_id not in before}
    assert new == {"batch_norm-b16-s0", "batch_norm-b16-s1"}
    parameters = YAML(typ="safe").load(in_pipeline.root / "params.yaml")
    assert parameters["studies"]["batch_size_grid"]["grid"]["batch_size"] == [32, 64, 16]


@pytest.mark.changes
@pytest.mark.parametrize(
    ("change", "arm", "layer"), [("add a normaliser", "group_norm", "GroupNormalization"), ("add a network", "conv", "Conv2D")]
)
def test_a_normaliser_or_network_is_trained_and_reported(in_pipeline, change, arm, layer):
    said = follow(in_pipeline, Recipe(RECIPES[change].edit, "dvc repro"))
    assert f"train@{arm}" in stages_run(said)
    assert not {"fetch", "preprocess"} & stages_run(said)
    history = pd.read_csv(in_pipeline.root / "reports/notebook/history.csv")
    assert set(history[history["study"] == "train"]["arm"]) == {"baseline", "batch_norm", arm}
    assert arm.replace("_", " ") in (in_pipeline.root / "reports/notebook/report.md").read_text()
    in_pipeline.succeed("mypy", "-p", "pipeline.training")
    program = "from pipeline.trials.parameters import load_parameters; from pipeline.training.network import build_model\n"
    program += f"model = build_model(load_parameters().trial_config('{arm}', {{}}, 0), 0, (32, 32, 3), 10)\n"
    program += "print([type(layer).__name__ for layer in model.layers])"
    assert layer in in_pipeline.succeed("python", "-c", program)


@pytest.mark.changes
def test_a_metric_is_in_every_history_and_in_mlflow(in_pipeline):
    follow(in_pipeline, Recipe(RECIPES["add a metric of each epoch"].edit, "dvc repro"))
    history = pd.read_csv(in_pipeline.root / "reports/notebook/history.csv")
    assert history["val_confidence"].between(0.1, 1).all()
    assert sum("val_confidence" in run.data.metrics for run in runs_of(in_pipeline)) == 6


@pytest.mark.changes
def test_a_study_is_trained_and_its_claim_judged(in_laboratory):
    in_laboratory.change("studies", "learning_rate", "grid", "learning_rate", to=[0.001, 0.01, 0.02], file=CLAIMS)  # and a level more
    said = follow(in_laboratory, RECIPES["add a study and its claim"])
    run = {stage.split(":")[-1] for stage in stages_run(said)}
    assert {"study@momentum", "measure@momentum", *JUDGED} <= run
    assert {stage for stage in run if stage.startswith("study@")} == {"study@momentum", "study@learning_rate"}
    assert "8 of 12 trials are in the ledger already" in said
    trials = pd.read_csv(in_laboratory.root / "reports/claims/studies/momentum/trials.csv")
    of_seeds = trials.pivot_table(index="seed", columns="batch_norm_momentum", values="M1")
    row = verdicts_of(in_laboratory)["M1"]
    assert row["n"] == 3
    assert row["mean"] == pytest.approx((of_seeds[0.99] - of_seeds[0.9]).mean(), abs=1e-6)
    report = (in_laboratory.root / "reports/claims/report.md").read_text()
    assert "### M1 BN needs a long memory" in report
    assert "| 0.99 | " in report.partition("### M1 ")[2].partition("\n#")[0]


@pytest.mark.changes
def test_a_kind_of_measure_judges_a_claim_and_trains_nothing(in_laboratory):
    run = {stage.split(":")[-1] for stage in stages_run(follow(in_laboratory, RECIPES["add a kind of measure and a claim that uses it"]))}
    assert run <= MEASURE | JUDGED
    history = pd.read_csv(in_laboratory.root / "reports/claims/studies/core/history.csv")
    highest = history.pivot_table(index="seed", columns="arm", values="val_accuracy", aggfunc="max")
    assert verdicts_of(in_laboratory)["M2"]["mean"] == pytest.approx((highest["batch_norm"] - highest["baseline"]).mean())


@pytest.mark.changes
def test_reports_on_another_data_set_name_it(in_laboratory):
    follow(in_laboratory, RECIPES["use another data set"])
    profile = json.loads((in_laboratory.root / "data/processed/profile.json").read_text())
    assert len(profile["classes"]["train"]) == 100
    assert "CIFAR-100" in (in_laboratory.root / "reports/notebook/report.md").read_text()
    claims = (in_laboratory.root / "reports/claims/report.md").read_text()  # that the notebook had CIFAR-10 stays true
    assert "training images of CIFAR-100" in claims


@pytest.mark.changes
def test_a_stage_and_a_tag_are_made(in_pipeline):
    assert stages_run(follow(in_pipeline, RECIPES["add a DVC stage"])) == {"best_epochs"}
    assert len(pd.read_csv(in_pipeline.root / "results/best_epochs.csv")) == 4
    in_pipeline.succeed("bash", "-euo", "pipefail", "-c", RECIPES["tag every trial in MLflow"].edit)
    in_pipeline.change("studies", "train", "seeds", to=[0, 1, 2])
    in_pipeline.succeed("dvc", "repro", "train@baseline")
    assert [run.info.run_name for run in runs_of(in_pipeline) if "purpose" in run.data.tags] == ["baseline-b64-s2"]


@pytest.mark.changes
def test_a_mirror_is_asked(in_pipeline, tmp_path):
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(in_pipeline.root / "data/raw", "cifar-10-batches-bin")
    asked = []

    class Mirror(http.server.SimpleHTTPRequestHandler):
        def log_message(self, _form: str, *arguments: object) -> None:
            asked.append(arguments)

    for held in ("data/raw", ".dvc/cache"):  # what is there and right would not be fetched again
        shutil.rmtree(in_pipeline.root / held)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Mirror, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        said = follow(in_pipeline, Recipe(RECIPES["add a mirror"].edit.replace("https://example.org", address), "dvc repro fetch"))
        server.shutdown()
    assert stages_run(said) == {"fetch"}
    assert asked
    assert f"{address}/cifar-10-binary.tar.gz" in (in_pipeline.root / "params.yaml").read_text()
