"""dvc.yaml and claims/dvc.yaml name the rooms that decide what a stage writes."""

from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

# Rooms that only carry or watch, and the places of the claims' results: no byte of a stage's outputs depends on them.
DECIDE_NO_BYTES = ("pipeline/common", "pipeline/tracking", "pipeline/workers", "pipeline/cluster", "claims/paths.py")
DECIDE_BYTES_IN_THEM = ("pipeline/common/statistics.py",)
# What these import in turn serves logging and sending. (Workers train: what they import does decide.)
NOT_FOLLOWED = ("pipeline.tracking", "pipeline.cluster")
# What a stage imports and need not list, each with the reason.
CORE_WEIGHTS = "reports/claims/studies/core/weights.csv"
OF_CORE_NETWORKS = ("pipeline/training", "pipeline/images/arrays.py")
EXCEPTIONS = {
    # They look into the networks of study core. Changed code gives the same networks, or other hashes in core/weights.csv.
    "claims.timing": OF_CORE_NETWORKS,
    "claims.mechanisms": OF_CORE_NETWORKS,
    # The words of the model card and the name of the data set in it go to MLflow, and not into the stage's outputs.
    "pipeline.evaluate": ("pipeline/pages", "pipeline/images/dataset.py", "pipeline/images/cifar10.py"),
}


def read_stages(pipeline: str) -> dict[str, dict]:
    """What each stage declares, those of a foreach once."""
    stages = YAML(typ="safe").load(ROOT / pipeline)["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


CLAIMS = read_stages("claims/dvc.yaml")
STAGES = {("pipeline", name): stage for name, stage in read_stages("dvc.yaml").items()} | {
    ("claims", name): stage for name, stage in CLAIMS.items()
}
MODULES = {stage: declared["cmd"].split()[2] for stage, declared in STAGES.items()}


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """The file of each stage's module and the files of all modules that it imports, however deep and wherever the import stands."""
    graph = grimp.build_graph("pipeline", "claims", exclude_type_checking_imports=True, cache_dir=None)
    for room in NOT_FOLLOWED:
        graph.squash_module(room)
        for imported in graph.find_modules_directly_imported_by(room):
            graph.remove_import(importer=room, imported=imported)
    return {stage: {path_of(name) for name in graph.find_upstream_modules(stage) | {stage}} for stage in MODULES.values()}


def path_of(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def lies_in(path: str, places) -> bool:
    return any(Path(path).is_relative_to(place) for place in places)


def code_of(stage: dict) -> set[str]:
    return {path for path in stage["deps"] if path.startswith(("pipeline/", "claims/")) and not path.endswith(".csv")}


@pytest.mark.parametrize("stage", STAGES, ids="/".join)
def test_all_imported_code_that_decides_bytes_is_among_the_dependencies(stage, imports):
    listed, excepted = code_of(STAGES[stage]), EXCEPTIONS.get(MODULES[stage], ())
    deciding = {path for path in imports[MODULES[stage]] if not lies_in(path, DECIDE_NO_BYTES) or path in DECIDE_BYTES_IN_THEM}
    assert {path for path in deciding if not lies_in(path, (*listed, *excepted))} == set()


@pytest.mark.parametrize("stage", STAGES, ids="/".join)
def test_every_code_among_the_dependencies_is_imported_and_decides_bytes(stage, imports):
    listed = code_of(STAGES[stage])
    assert {place for place in listed if not any(lies_in(path, [place]) for path in imports[MODULES[stage]])} == set()
    assert {place for place in listed if lies_in(place, DECIDE_NO_BYTES) and place not in DECIDE_BYTES_IN_THEM} == set()
    assert {place for place in listed if not (ROOT / place).exists()} == set()


def test_a_stage_that_does_not_list_the_training_code_depends_on_the_weights_that_it_gave():
    without = [module for module, excepted in EXCEPTIONS.items() if excepted == OF_CORE_NETWORKS]
    assert without
    assert all(CORE_WEIGHTS in STAGES[tuple(module.split("."))]["deps"] for module in without)


@pytest.mark.parametrize("stage", STAGES, ids="/".join)
def test_a_stage_says_what_it_does_and_runs_a_module_of_its_package(stage):
    assert STAGES[stage]["desc"]
    assert STAGES[stage]["cmd"].startswith(f"python -m {stage[0]}.")
    assert MODULES[stage] == ".".join(stage) or stage == ("pipeline", "batch_size_grid")  # another study of `train`


def test_what_the_claims_measure_is_in_git():
    outputs = [output for stage in CLAIMS.values() for output in stage["outs"]]
    assert all(options == {"cache": False} for output in outputs for options in output.values())


def test_the_test_set_is_read_by_evaluate_alone():
    assert [stage for (_, stage), declared in STAGES.items() if "data/processed/test" in declared["deps"]] == ["evaluate"]
