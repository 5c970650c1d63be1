"""Both parameter files are checked as a whole, before anything runs."""

import copy
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from checks.parameters import ParametersFile, check_parameters, read_parameters
from pipeline.common.errors import PipelineError
from pipeline.trials.studies import Cell
from tests.conftest import ROOT

Place = tuple[str | int, ...]

TEXT = (ROOT / "params.yaml").read_text()
ORIGINAL = YAML(typ="safe").load(TEXT)
LIMIT_SECONDS = 30.0
WRONG = [
    (("split", "validation_fraction"), 1.0, "split.validation_fraction"),
    (("split", "method"), "first", "split.method"),
    (("data", "sources"), [], "data.sources"),
    (("data", "sources"), ["https://example.org"], "data.sources.0"),
    (("data", "md5", "test_batch.bin"), "abc", "data.md5.test_batch.bin"),
    (("data", "md5", "other.bin"), "0" * 32, "data.md5"),
    (("data", "maximum_megabytes"), 0, "data.maximum_megabytes"),
    (("arms", "batch_norm", "depth"), 3, "arms.batch_norm.depth"),
    (("studies", "batch_size_grid", "grid", "batch_size"), [32, "64"], "studies.batch_size_grid.grid.batch_size"),
    (("extra",), 1, "extra: Extra inputs are not permitted"),
]
REPLACEMENTS = {
    "text": "no_such_choice",
    "whole number": 7,
    "fraction": 0.5,
    "truth": False,
    "nothing": None,
    "list": ["no_such_item"],
    "mapping": {"no_such_key": 1},
    "not a number": float("nan"),
    "infinite": float("inf"),
    "minus infinite": float("-inf"),
    "negative": -1,
    "huge": 10**30,
}


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with both parameter files."""
    (tmp_path / "claims").mkdir()
    for name in ("params.yaml", "claims/params.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_projects_own_parameters_are_valid_and_are_checked_without_tensorflow():
    program = "import sys; from checks.parameters import main; sys.argv = ['']; main(); print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["params.yaml and claims/params.yaml are valid", "False"]
    split = read_parameters(ROOT / "params.yaml").split
    assert (split.method, split.validation_fraction) == ("last", 0.2)  # the notebook's


def test_each_fault_of_params_yaml_has_a_line_with_its_key(project):
    replace(project / "params.yaml", "runner: local", "runer: local")
    replace(project / "params.yaml", "  epochs: 20", "  epochs: many")
    replace(project / "params.yaml", "  method: last", "  method: first")
    done = subprocess.run(
        [sys.executable, "-m", "checks.parameters"],
        cwd=project,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert sorted(line.split(" (")[0] for line in done.stderr.splitlines()) == [
        "error: params.yaml: runer: Extra inputs are not permitted",
        "error: params.yaml: runner: Field required",
        "error: params.yaml: split.method: Input should be 'last' or 'stratified'",
        "error: params.yaml: trial.epochs: Input should be a valid integer",
    ]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("\nset: default", "\nset: default\nextra: 1", "extra: Extra inputs are not permitted"),
        ("\nset: default", "\nset: all", "set: Input should be"),
        ("\nsignificance:", "\nsignificant:", "significance: Field required"),
    ],
)
def test_a_fault_of_the_claims_parameters_is_named_by_file_and_key(project, old, new, named):
    replace(project / "claims/params.yaml", old, new)
    with pytest.raises(PipelineError, match=f"claims/params.yaml: {named}"):
        check_parameters(project)


@pytest.mark.parametrize(("path", "value", "named"), WRONG, ids=[f"{named}={value!s:.20}" for _, value, named in WRONG])
def test_a_wrong_value_or_key_of_any_section_is_named_in_one_line(changed, path, value, named):
    with pytest.raises(PipelineError) as raised:
        read_parameters(changed(*path, to=value))
    assert f"params.yaml: {named}" in str(raised.value)
    assert "\n" not in str(raised.value)


def places(node: Any, above: Place = ()) -> Iterator[Place]:
    """Every key of params.yaml; of a list of plain values only the first, since the others are like it."""
    if isinstance(node, list):
        node = dict(enumerate(node if isinstance(node[0], dict) else node[:1]))
    for key, value in node.items():
        yield (*above, key)
        if isinstance(value, dict | list) and value:
            yield from places(value, (*above, key))


def parent_in(content: Any, place: Place) -> Any:
    for key in place[:-1]:
        content = content[key]
    return content


def replaced(value: Any) -> Iterator[tuple[Place, Any]]:
    for place in places(ORIGINAL):
        content = copy.deepcopy(ORIGINAL)
        parent_in(content, place)[place[-1]] = value
        yield place, content


def missing() -> Iterator[tuple[Place, Any]]:
    for place in places(ORIGINAL):
        content = copy.deepcopy(ORIGINAL)
        del parent_in(content, place)[place[-1]]
        yield place, content


def extra() -> Iterator[tuple[Place, Any]]:
    for place in [("no_such_key",), *((*place, "no_such_key") for place in places(ORIGINAL))]:
        content = copy.deepcopy(ORIGINAL)
        if isinstance(parent_in(content, place), dict):
            parent_in(content, place)["no_such_key"] = 1
            yield place, content


KINDS = {"missing": missing, "extra": extra, **{kind: lambda value=value: replaced(value) for kind, value in REPLACEMENTS.items()}}


def read(path: Path) -> ParametersFile | str:
    """Return the parameters, or the message of what is wrong with them."""
    try:
        return read_parameters(path)
    except PipelineError as error:
        return str(error)


def cells_of_stages(content: Any) -> list[Cell]:
    """What dvc.yaml's two stages that train ask for."""
    studies = content["studies"]
    of_grid = [("batch_size_grid", "batch_norm", {"batch_size": size}) for size in studies["batch_size_grid"]["grid"]["batch_size"]]
    return [*(("train", arm, {}) for arm in studies["train"]["arms"]), *of_grid]


def names(message: str, place: Place) -> bool:
    """Whether the message is one line that names the key or the one above it as in `trial.epochs: ...`, or quotes it."""
    dotted = [".".join(map(str, part)) for part in (place, place[:-1]) if part]
    named = any(re.search(rf"params\.yaml: (?:.*; )?{re.escape(key)}[.:]", message) for key in dotted)
    return "\n" not in message and (named or f"'{place[-1]}'" in message)


@pytest.mark.reliability
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_key_is_changed_to_is_named_or_means_what_it_says(tmp_path, record_property, kind):
    refused = 0
    for place, content in KINDS[kind]():
        YAML(typ="safe").dump(content, tmp_path / "params.yaml")
        began = time.process_time()
        outcome = read(tmp_path / "params.yaml")
        assert time.process_time() - began < LIMIT_SECONDS
        if isinstance(outcome, ParametersFile):
            assert outcome.model_dump(exclude_unset=True) == content, place
            assert sorted(outcome.cells(), key=repr) == sorted(cells_of_stages(content), key=repr), place
        else:
            assert names(outcome, place), f"{place}: {outcome}"
            refused += 1
    record_property("bad_parameters_refused", refused)


@pytest.mark.reliability
@pytest.mark.parametrize(("inserted", "reason"), [("{0}{1}: 1\n", 'duplicate key "{1}"'), ("{0}{1}: [\n", "not valid YAML: .*line")])
def test_a_line_that_breaks_the_file_anywhere_is_refused(tmp_path, record_property, inserted, reason):
    keys = list(re.finditer(r"^( *)([\w.]+):", TEXT, re.MULTILINE))
    for key in keys:
        (tmp_path / "params.yaml").write_text(TEXT[: key.start()] + inserted.format(*key.groups()) + TEXT[key.start() :])
        with pytest.raises(PipelineError, match=reason.format(*key.groups())) as raised:
            read_parameters(tmp_path / "params.yaml")
        assert "\n" not in str(raised.value)
    record_property("bad_parameters_refused", len(keys))
