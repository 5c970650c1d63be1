"""dvc.yaml tells the truth about the code."""

import ast

import pytest
from ruamel.yaml import YAML

from pipeline.trial_key import imported_modules
from tests.conftest import ROOT

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_it_imports_and_on_no_other(stage):
    modules = {path for path in STAGES[stage]["deps"] if path.endswith(".py")}
    assert modules == {f"pipeline/{name}.py" for name in imported_modules(stage)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_says_what_it_does_and_runs_the_module_of_its_name(stage):
    assert STAGES[stage]["desc"]
    assert STAGES[stage]["cmd"].split(" ")[:3] == ["python", "-m", f"pipeline.{stage}"]


def test_what_is_read_from_the_test_set_is_read_by_evaluate_alone():
    readers = {stage for stage, fields in STAGES.items() if "data/processed/test" in fields["deps"]}
    assert readers == {"evaluate"}


def test_only_the_ledger_speaks_to_mlflow():
    speakers = set()
    for path in (ROOT / "pipeline").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            speakers |= {path.stem for name in names if name.split(".")[0] == "mlflow"}
    assert speakers == {"tracking"}
