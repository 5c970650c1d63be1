"""The README's recipes, run as they stand there, in copies of the small pipeline."""

import functools
import http.server
import json
import re
import shutil
import tarfile
import threading

import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.pipelines.test_pipeline import runs_of, stages_run

pytestmark = pytest.mark.laboratory

RECIPES = dict(re.findall(r"```sh\n# recipe: ([^\n]+)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL))


def follow(project, recipe: str) -> str:
    return project.succeed("bash", "-euo", "pipefail", "-c", RECIPES[recipe])


def test_add_a_level(built, tmp_path):
    copy = built.copy(tmp_path / "copy")
    before = {run.info.run_id for run in runs_of(copy)}
    said = follow(copy, "add a level")
    assert {"batch_size_grid@16", "report"} <= stages_run(said)
    assert not {"train@baseline", "train@batch_norm", "batch_size_grid@32", "batch_size_grid@64"} & stages_run(said)
    assert {run.info.run_name for run in runs_of(copy) if run.info.run_id not in before} == {
        f"batch_norm-b{size}-s{seed}" for size in (16, 128) for seed in (0, 1)
    }
    parameters = YAML(typ="safe").load(copy.root / "params.yaml")
    assert parameters["studies"]["batch_size_grid"]["grid"]["batch_size"] == [32, 64, 128, 16]


def test_add_a_normaliser(built, tmp_path):
    copy = built.copy(tmp_path / "copy")
    assert "train@group_norm" in stages_run(follow(copy, "add a normaliser"))
    history = pd.read_csv(copy.root / "reports/notebook/history.csv")
    assert set(history[history["study"] == "train"]["arm"]) == {"baseline", "batch_norm", "group_norm"}
    assert "group norm" in (copy.root / "reports/notebook/report.md").read_text()
    for command in (["ruff", "check", "pipeline"], ["ruff", "format", "--check", "pipeline"], ["mypy", "-p", "pipeline.training.network"]):
        copy.succeed(*command)
    layers = copy.succeed(
        "python",
        "-c",
        "from pipeline.trials.parameters import load_parameters; from pipeline.training.network import build_model;"
        "print([type(layer).__name__ for layer in build_model(load_parameters().trial_config('group_norm', {}, 0), 0, (32, 32, 3), 10).layers])",
    )
    assert layers.count("GroupNormalization") == 3


def test_add_a_study_and_its_claim(laboratory, tmp_path):
    copy = laboratory.copy(tmp_path / "copy")
    run = {stage.split(":")[-1] for stage in stages_run(follow(copy, "add a study and its claim"))}
    assert {"study@momentum", "measure@momentum", "verdicts", "report"} <= run
    assert not {stage for stage in run if stage.startswith("study@")} - {"study@momentum"}
    claims = {row["id"]: row for row in json.loads((copy.root / "reports/claims/verdicts.json").read_text())["claims"]}
    assert claims["M1"]["n"] == 3
    assert "BN needs a long memory" in (copy.root / "reports/claims/report.md").read_text()


def test_add_a_mirror(built, tmp_path, monkeypatch):
    copy = built.copy(tmp_path / "copy")
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(copy.root / "data/raw", "cifar-10-batches-bin")
    asked = []

    class Mirror(http.server.SimpleHTTPRequestHandler):
        def log_message(self, _form: str, *arguments: object) -> None:
            asked.append(arguments)

    for held in ("data/raw", ".dvc/cache"):  # what is there and right would not be fetched again
        shutil.rmtree(copy.root / held)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Mirror, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        recipe, address = "add a mirror", f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setitem(RECIPES, recipe, RECIPES[recipe].replace("https://example.org", address))
        said = copy.succeed("bash", "-euo", "pipefail", "-c", RECIPES[recipe])
        server.shutdown()
    assert stages_run(said) == {"fetch"}
    assert asked
    assert f"{address}/cifar-10-binary.tar.gz" in (copy.root / "params.yaml").read_text()


def test_the_readme_has_no_recipe_that_is_not_tested():
    assert set(RECIPES) <= {"add a level", "add a normaliser", "add a study and its claim", "add a mirror"}


def test_a_recipe_has_at_most_five_lines():
    recipes = re.findall(r"```sh\n# recipe: ([^\n]+)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert {name: len(lines.splitlines()) for name, lines in recipes if len(lines.splitlines()) > 5} == {}
