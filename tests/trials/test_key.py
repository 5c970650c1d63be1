import shutil
from pathlib import Path

import pytest

from pipeline.training import environment
from pipeline.trials import key as module
from pipeline.trials.key import code_fingerprint, trial_key


@pytest.fixture
def config(parameters):
    return parameters.trial_config("batch_norm", {}, seed=0)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package whose code can be changed."""
    shutil.copytree(module.PACKAGE, tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "pipeline")
    code_fingerprint.cache_clear()
    yield tmp_path / "pipeline"
    code_fingerprint.cache_clear()


def test_equal_trials_have_equal_keys(config):
    assert trial_key(config, "0" * 32) == trial_key(config.model_copy(), "0" * 32)


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 0.01}, {"hidden_units": [512, 256]}, {"kernel_gain": 1.5}])
def test_another_configuration_has_another_key(config, change):
    assert trial_key(config.model_copy(update=change), "0" * 32) != trial_key(config, "0" * 32)


def test_each_gpu_and_its_driver_are_part_of_the_key(config, tmp_path, monkeypatch):
    """As NVIDIA's driver describes them under /proc; a machine without one has no such folder."""
    assert environment._gpus(tmp_path) == {}
    for slot, model in (("0000:01:00.0", "NVIDIA A100"), ("0000:02:00.0", "NVIDIA L4")):
        (tmp_path / "gpus" / slot).mkdir(parents=True)
        (tmp_path / "gpus" / slot / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 42\n")
    (tmp_path / "version").write_text("NVRM version: 580.1\nGCC version: 12\n")
    found = environment._gpus(tmp_path)
    assert found == {"gpu": "NVIDIA A100, NVIDIA L4", "gpu_driver": "NVRM version: 580.1"}
    before = trial_key(config, "0" * 32)
    monkeypatch.setattr(environment, "_gpus", lambda: found)
    assert trial_key(config, "0" * 32) != before


def test_other_data_have_another_key(config):
    assert trial_key(config, "1" * 32) != trial_key(config, "0" * 32)


def test_other_kernels_have_another_key(config, monkeypatch):
    before = trial_key(config, "0" * 32)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert trial_key(config, "0" * 32) != before


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("training/optimizer.py", "self.iterations + 1", "self.iterations + 2"),
        ("training/metric_names.py", "10_000", "9_000"),
        ("images/arrays.py", "images[:count]", "images[-count:]"),
    ],
)
def test_code_that_decides_bits_counts(config, package, path, before, after):
    key = trial_key(config, "0" * 32)
    edit(package / path, before, after)
    assert trial_key(config, "0" * 32) != key


def test_a_new_module_among_them_counts(config, package):
    key = trial_key(config, "0" * 32)
    (package / "training/another.py").write_text("RATE = 1\n")
    code_fingerprint.cache_clear()
    assert trial_key(config, "0" * 32) != key


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("training/trial.py", "import math", "import math  # a remark"),
        ("training/trial.py", "Train as `config` says", "Train just as `config` says"),
        ("trials/parameters.py", "100_000", "90_000"),
        ("images/cifar10.py", "airplane", "aeroplane"),
    ],
)
def test_comments_docstrings_and_code_that_decides_no_bits_do_not_count(config, package, path, before, after):
    key = trial_key(config, "0" * 32)
    edit(package / path, before, after)
    assert trial_key(config, "0" * 32) == key


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    code_fingerprint.cache_clear()
