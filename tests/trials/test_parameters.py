import copy
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.common.errors import PipelineError
from pipeline.reporting.theory import count_parameters, list_layers
from pipeline.trials.parameters import Parameters, load_parameters
from pipeline.trials.studies import Cell
from tests.conftest import ROOT


def test_the_projects_own_parameters_are_the_notebooks(parameters):
    trial = parameters.trial
    assert (trial.hidden_units, trial.batch_size, trial.epochs, trial.optimizer) == ([512, 256, 128], 64, 20, "adam")
    assert parameters.split.method == "last"
    assert parameters.split.validation_fraction == 0.2
    assert parameters.studies["batch_size_grid"].grid == {"batch_size": [32, 64, 128]}


def test_an_arm_and_a_level_override_the_common_settings(parameters):
    config = parameters.trial_config("batch_norm", {"batch_size": 32}, seed=7)
    assert (config.normalization, config.batch_size, config.seed) == ("batch", 32, 7)
    assert config.learning_rate == parameters.trial.learning_rate


WRONG = [
    (("trial", "batch_size"), "64", "trial.batch_size"),
    (("trial", "batch_size"), 0, "trial.batch_size"),
    (("trial", "batch_size"), True, "trial.batch_size"),
    (("trial", "epochs"), 2.5, "trial.epochs"),
    (("trial", "earlier_batch_sizes"), [0], "trial.earlier_batch_sizes"),
    (("trial", "training_images"), 0, "trial.training_images"),
    (("trial", "training_images"), "some", "trial.training_images"),
    (("trial", "epochs"), 10**9, "trial.epochs"),
    (("trial", "learning_rate"), -0.1, "trial.learning_rate"),
    (("trial", "learning_rate"), float("nan"), "trial.learning_rate"),
    (("trial", "learning_rate"), float("inf"), "trial.learning_rate"),
    (("trial", "learning_rte"), 0.1, "trial.learning_rte"),
    (("trial", "learning\nrate"), 0.1, r"trial.'learning\nrate'"),
    (("studies", "batch_size_grid", "grid", "batch\nsize"), [1], r"studies.batch_size_grid.grid.'batch\nsize'"),
    (("trial", "optimizer"), "adamm", "trial.optimizer"),
    (("trial", "normalization"), "bach", "trial.normalization"),
    (("trial", "normalization"), ["batch"], "trial.normalization"),
    (("trial", "hidden_units"), [512, -1], "trial.hidden_units"),
    (("trial", "dropout"), 1.0, "trial.dropout"),
    (("trial", "batch_norm_momentum"), None, "trial.batch_norm_momentum"),
    (("trial",), [], "trial"),
    (("split", "validation_fraction"), 1.0, "split.validation_fraction"),
    (("split", "method"), "first", "split.method"),
    (("data", "sources"), [], "data.sources"),
    (("data", "sources"), ["https://example.org"], "data.sources.0"),
    (("data", "md5", "test_batch.bin"), "abc", "data.md5.test_batch.bin"),
    (("data", "md5", "other.bin"), "0" * 32, "data.md5.other.bin"),
    (("data", "maximum_megabytes"), 0, "data.maximum_megabytes"),
    (("arms", "batch_norm", "normalization"), "bach", "arms.batch_norm.normalization"),
    (("arms", "batch_norm", "depth"), 3, "arms.batch_norm.depth"),
    (("arms", "batch_norm", "seed"), 3, "arms.batch_norm.seed"),
    (("arms", "Batch Norm"), {}, "arms.Batch Norm"),
    (("studies", "train", "arms"), ["baseline", "unknown"], "studies.train.arms"),
    (("studies", "train", "arms"), [], "studies.train.arms"),
    (("studies", "train", "seeds"), [0, 0], "studies.train.seeds"),
    (("studies", "train", "seeds"), [-1], "studies.train.seeds"),
    (("studies", "train", "log_models"), "yes", "studies.train.log_models"),
    (("studies", "batch_size_grid", "grid", "batch_size"), [32, "64"], "studies.batch_size_grid.grid.batch_size"),
    (("studies", "batch_size_grid", "grid", "batch_size"), [32, 32], "studies.batch_size_grid.grid.batch_size"),
    (("studies", "batch_size_grid", "grid", "batch_sise"), [32], "studies.batch_size_grid.grid.batch_sise"),
    (("studies", "batch_size_grid", "grid", "seed"), [1], "studies.batch_size_grid.grid.seed"),
    (("studies", "batch_size_grid", "grid", "batch_size"), list(range(1, 20_001)), "studies.batch_size_grid: declares 100,000 trials"),
    (("studies", "batch_size_grid", "grid", "hidden_units"), [[8, 8], [8, 8]], "studies.batch_size_grid.grid.hidden_units: has a value"),
    (("studies", "batch_size_grid", "grid", "hidden_units"), [[1], [65536] * 2], "studies.batch_size_grid.grid.hidden_units: gives a"),
    (("trial", "hidden_units"), [65536] * 64, "trial.hidden_units: gives a model 270,789,115,914 weights, of at most 1,000,000,000"),
    (("arms", "baseline", "hidden_units"), [65536] * 64, "arms.baseline.hidden_units: gives a model 270,789,115,914 weights"),
    (("extra",), 1, "extra"),
]


@pytest.mark.parametrize(("path", "value", "named"), WRONG, ids=[f"{named}={value!s:.20}" for _, value, named in WRONG])
def test_a_wrong_value_or_key_is_named_in_one_line(changed, path, value, named):
    with pytest.raises(PipelineError) as raised:
        load_parameters(changed(*path, to=value))
    assert named in str(raised.value)
    assert "params.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("path", [("trial", "epochs"), ("data",), ("studies", "train", "seeds"), ("data", "md5", "test_batch.bin")])
def test_a_missing_key_is_named(changed, path):
    with pytest.raises(PipelineError, match=r"params.yaml: .*(required|missing|at least)") as raised:
        load_parameters(changed(*path))
    assert path[-1] in str(raised.value) or path[-2] in str(raised.value)


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2", "", "just words", "- 1", "\0"])
def test_what_is_not_a_mapping_in_yaml_is_refused(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(PipelineError, match=r"params\.yaml: "):
        load_parameters(tmp_path / "params.yaml")


def test_a_repeated_key_is_refused(tmp_path):
    text = (ROOT / "params.yaml").read_text().replace("  epochs: 20", "  epochs: 20\n  epochs: 30")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(PipelineError, match="epochs"):
        load_parameters(tmp_path / "params.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PipelineError, match=r"params\.yaml: not found"):
        load_parameters(tmp_path / "params.yaml")


def test_checking_needs_no_tensorflow():
    program = "import sys; from pipeline.trials.parameters import load_parameters; load_parameters(); print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "False"


def numbers(count: int) -> list[float]:
    return [number / (count + 1) for number in range(1, count + 1)]


def test_a_grid_of_millions_of_trials_is_refused_before_it_is_enumerated(changed):
    grid = {"batch_size": list(range(1, 200)), "learning_rate": numbers(199), "dropout": numbers(199)}
    began = time.process_time()
    with pytest.raises(PipelineError, match=r"studies\.batch_size_grid: declares 39,402,995 trials, and all .* 100,000"):
        load_parameters(changed("studies", "batch_size_grid", "grid", to=grid))
    assert time.process_time() - began < LIMIT_SECONDS


def test_many_seeds_are_checked_quickly(changed):
    path = changed("studies", "train", "seeds", to=list(range(20_000)))
    began = time.process_time()
    assert len(load_parameters(path).studies["train"].seeds) == 20_000
    assert time.process_time() - began < LIMIT_SECONDS


def test_the_weights_that_are_bounded_are_those_of_the_model(changed, monkeypatch, parameters):
    weights = count_parameters(list_layers(parameters.trial_config("baseline", {}, seed=0)))
    monkeypatch.setattr("pipeline.trials.parameters.MAXIMUM_WEIGHTS", weights)
    path = changed("trial", "epochs", to=1)
    load_parameters(path)
    monkeypatch.setattr("pipeline.trials.parameters.MAXIMUM_WEIGHTS", weights - 1)
    with pytest.raises(PipelineError, match=rf"trial\.hidden_units: gives a model {weights:,} weights"):
        load_parameters(path)


Place = tuple[str | int, ...]

TEXT = (ROOT / "params.yaml").read_text()
ORIGINAL = YAML(typ="safe").load(TEXT)
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
LIMIT_SECONDS = 3.0
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


def load(path: Path) -> Parameters | str:
    """Give the parameters, or the message of what is wrong with them."""
    try:
        return load_parameters(path)
    except PipelineError as error:
        return str(error)


def cells_of_stages(content: Any) -> list[Cell]:
    """What dvc.yaml's two stages that train ask for."""
    cells = [(stage, values) for stage in ("train", "batch_size_grid") for values in STAGES[stage]["matrix"].values()]
    assert [values for _, values in cells] == ["${studies.train.arms}", "${studies.batch_size_grid.grid.batch_size}"]
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
        outcome = load(tmp_path / "params.yaml")
        assert time.process_time() - began < LIMIT_SECONDS
        if isinstance(outcome, Parameters):
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
            load_parameters(tmp_path / "params.yaml")
        assert "\n" not in str(raised.value)
    record_property("bad_parameters_refused", len(keys))


@pytest.mark.reliability
@pytest.mark.parametrize("command", ["parameters", "fetch", "train baseline"])
def test_a_stage_refuses_within_seconds_and_without_tensorflow(changed, record_property, command):
    folder = changed("trial", "epochs", to="many").parent
    module, *arguments = command.split()
    program = f"import runpy, sys; sys.argv = ['x', *{arguments!r}]\n"
    program += f"try: runpy.run_module('pipeline.{module}', run_name='__main__')\nfinally: print('tensorflow' in sys.modules)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: trial.epochs: Input should be a valid integer (got 'many')")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout.strip() == "False"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < LIMIT_SECONDS
    record_property("bad_parameters_refused", 1)
