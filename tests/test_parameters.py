import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.parameters import load_parameters
from tests.conftest import ROOT


@pytest.fixture
def changed(tmp_path):
    """Write the project's params.yaml with one value changed (or, given no value, removed)."""

    def write(*path: str, **to) -> Path:
        yaml = YAML()
        content = yaml.load(ROOT / "params.yaml")
        node = content
        for key in path[:-1]:
            node = node[key]
        if to:
            node[path[-1]] = to["to"]
        else:
            del node[path[-1]]
        yaml.dump(content, tmp_path / "params.yaml")
        return tmp_path / "params.yaml"

    return write


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
    (("trial", "epochs"), 10**9, "trial.epochs"),
    (("trial", "learning_rate"), -0.1, "trial.learning_rate"),
    (("trial", "learning_rate"), float("nan"), "trial.learning_rate"),
    (("trial", "learning_rate"), float("inf"), "trial.learning_rate"),
    (("trial", "learning_rte"), 0.1, "trial.learning_rte"),
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
    (("extra",), 1, "extra"),
]


@pytest.mark.parametrize(("path", "value", "named"), WRONG, ids=[f"{named}={value}" for _, value, named in WRONG])
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
    program = "import sys; from pipeline.parameters import load_parameters; load_parameters(); print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "False"
