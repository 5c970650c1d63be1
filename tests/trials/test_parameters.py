import subprocess
import sys
import time

import pytest

from pipeline.common.errors import PipelineError
from pipeline.trials.parameters import load_parameters
from tests.conftest import ROOT

LIMIT_SECONDS = 30.0  # of work that grew with the square of what is declared, it would be minutes


def test_the_projects_own_parameters_are_the_notebooks(parameters):
    trial = parameters.trial
    assert (trial.hidden_units, trial.batch_size, trial.epochs, trial.optimizer) == ([512, 256, 128], 64, 20, "adam")
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
    (("trial", "hidden_units"), [65536] * 64, "trial.hidden_units: gives a network 270,788,460,544 weights, of at most 1,000,000,000"),
    (("arms", "baseline", "hidden_units"), [65536] * 64, "arms.baseline.hidden_units: gives a network 270,788,460,544 weights"),
]


@pytest.mark.parametrize(("path", "value", "named"), WRONG, ids=[f"{named}={value!s:.20}" for _, value, named in WRONG])
def test_a_wrong_value_or_key_is_named_in_one_line(changed, path, value, named):
    with pytest.raises(PipelineError) as raised:
        load_parameters(changed(*path, to=value))
    assert named in str(raised.value)
    assert "params.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("path", [("trial", "epochs"), ("arms",), ("studies", "train", "seeds")])
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


def test_the_weights_that_are_bounded_are_those_of_the_hidden_layers(changed, monkeypatch):
    weights = 3_073 * 512 + 513 * 256 + 257 * 128
    monkeypatch.setattr("pipeline.training.network.MAXIMUM_WEIGHTS", weights)
    path = changed("trial", "epochs", to=1)
    load_parameters(path)
    monkeypatch.setattr("pipeline.training.network.MAXIMUM_WEIGHTS", weights - 1)
    with pytest.raises(PipelineError, match=rf"trial\.hidden_units: gives a network {weights:,} weights"):
        load_parameters(path)


@pytest.mark.reliability
@pytest.mark.parametrize("command", ["one_trial", "evaluate", "train train baseline"])
def test_a_stage_refuses_before_it_imports_tensorflow(changed, record_property, command):
    folder = changed("trial", "epochs", to="many").parent
    module, *arguments = command.split()
    program = f"import runpy, sys; sys.argv = ['x', *{arguments!r}]\n"
    program += f"try: runpy.run_module('pipeline.{module}', run_name='__main__')\nfinally: print('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: trial.epochs: Input should be a valid integer (got 'many')")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout.strip() == "False"
    record_property("bad_parameters_refused", 1)
