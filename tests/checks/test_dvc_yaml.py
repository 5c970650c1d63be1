"""dvc.yaml and claims/dvc.yaml tell the truth about the code."""

import ast

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.modules import needed_modules


def read_stages(pipeline: str) -> dict:
    """What each stage declares, those of a foreach once."""
    stages = YAML(typ="safe").load(ROOT / pipeline)["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


STAGES = read_stages("dvc.yaml")
CLAIMS = read_stages("claims/dvc.yaml")
ALL = {("pipeline", name): stage for name, stage in STAGES.items()} | {("claims", name): stage for name, stage in CLAIMS.items()}


@pytest.mark.parametrize(("package", "stage"), ALL)
def test_a_stage_depends_on_every_module_it_imports_and_on_no_other(package, stage):
    modules = {path for path in ALL[package, stage]["deps"] if path.endswith(".py")}
    assert modules == needed_modules(f"{package}.{stage}")


@pytest.mark.parametrize(("package", "stage"), ALL)
def test_a_stage_says_what_it_does_and_runs_the_module_of_its_name(package, stage):
    assert ALL[package, stage]["desc"]
    assert ALL[package, stage]["cmd"].split(" ")[:3] == ["python", "-m", f"{package}.{stage}"]


def test_what_the_claims_measure_is_in_git():
    outputs = [output for stage in CLAIMS.values() for output in stage["outs"]]
    assert all(options == {"cache": False} for output in outputs for options in output.values())


def test_what_is_read_from_the_test_set_is_read_by_evaluate_alone():
    readers = {stage for (_, stage), fields in ALL.items() if "data/processed/test" in fields["deps"]}
    assert readers == {"evaluate"}


def test_only_ledger_registry_and_server_speak_to_mlflow():
    speakers = set()
    for path in [*(ROOT / "pipeline").glob("*.py"), *(ROOT / "claims").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            speakers |= {path.stem for name in names if name.split(".")[0] == "mlflow"}
    assert speakers == {"tracking", "logged_model", "registry", "serve", "served_model"}
