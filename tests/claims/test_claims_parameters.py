import shutil

import pytest
from ruamel.yaml import YAML

from claims.judging.parameters import read_claims
from claims.parameters import check_claims
from claims.studies.parameters import read_studies
from claims.studies.trials import read_trials
from pipeline.common.errors import PipelineError
from tests.conftest import ROOT


@pytest.fixture
def changed_claims(tmp_path):
    """Write the project's claims/params.yaml with one value changed, or removed if none is given."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "claims").mkdir()

    def write(path: str, *to):
        yaml = YAML()
        content = yaml.load(ROOT / "claims/params.yaml")
        *parents, key = path.split(".")
        node = content
        for parent in parents:
            node = node[int(parent) if parent.isdecimal() else parent]
        if to:
            node[key] = to[0]
        else:
            del node[key]
        yaml.dump(content, tmp_path / "claims/params.yaml")
        return tmp_path / "claims/params.yaml"

    return write


@pytest.fixture
def studies():
    return read_studies(ROOT / "claims/params.yaml")


@pytest.fixture
def trials():
    return read_trials(ROOT / "claims/params.yaml")


def test_the_whole_file_is_valid_and_declares_every_claim_of_the_notebook(studies):
    check_claims(ROOT / "claims/params.yaml")
    claims = read_claims(studies, ROOT / "claims/params.yaml").claims
    judged = {name for name, claim in claims.items() if claim.kind != "explored"}
    assert judged == {"C0", "B1", "B2a", "B2b", "B3a", "B3b", "B4", "I1a", "I1b", "L1", "L2", "L3"}
    assert all(len(studies.declared[claim.study].seeds) >= 5 for claim in claims.values() if claim.kind == "tested")


def test_a_level_overrides_the_arm_and_an_arm_the_common_settings(studies, trials, parameters):
    level = {"kernel_gain": 0.01, "epochs": 2}
    config = trials.trial_config("batch_norm_small_epsilon", level, seed=3)
    assert (config.normalization, config.batch_norm_epsilon, config.kernel_gain, config.epochs) == ("batch", 1e-5, 0.01, 2)
    assert config.hidden_units == parameters.trial.hidden_units
    assert config.model_dump(exclude={"seed"}) == studies.settings("batch_norm_small_epsilon", level)


def test_plain_settings_tell_how_many_epochs_a_trial_is_to_have(studies, trials):
    for _, arm, level in trials.cells():
        assert studies.epochs(arm, level) == trials.trial_config(arm, level, seed=0).total_epochs
    assert studies.epochs("batch_norm_continued") == 60


def test_trials_are_shared_with_the_main_pipeline_and_between_studies(trials, parameters):
    assert trials.trial_config("batch_norm", {}, 0) == parameters.trial_config("batch_norm", {}, 0)
    assert trials.trial_config("batch_norm_32", {}, 0) == parameters.trial_config("batch_norm", {"batch_size": 32}, 0)
    [gain] = [level for level in trials.studies["initialization"].levels() if level["kernel_gain"] == 1.0]
    [rate] = [level for level in trials.studies["learning_rate"].levels() if level["learning_rate"] == 0.001]
    assert trials.trial_config("baseline", gain, 0) == trials.trial_config("baseline", rate, 0)


def test_one_parameter_chooses_the_extended_set(changed_claims, studies):
    path = changed_claims("set", "extended")
    check_claims(path)
    extended = read_studies(path)
    assert len(extended.declared["core"].seeds) > len(studies.declared["core"].seeds)
    assert {"batch_norm_before_activation", "layer_norm", "batch_norm_sgd"} <= set(extended.declared["core"].arms)


@pytest.mark.parametrize(
    ("path", "to", "told"),
    [
        ("set", ["huge"], "set: Input should be 'default' or 'extended'"),
        ("claims.B1.study", ["kore"], r"claims.B1.study: 'kore' is not declared under studies \(core, "),
        ("claims.B1.unit", ["stars"], "claims.B1.unit"),
        ("claims.B1.smallest_effect", ["big"], "claims.B1.smallest_effect"),
        ("claims.B1.smallest_effect", [-1.0], "claims.B1.smallest_effect: should be at least null_effect"),
        ("claims.B1.measure.kind", ["vibes"], "claims.B1.measure"),
        ("claims.B1.measure.from_epoch", [0], "claims.B1.measure.*from_epoch"),
        ("claims.B1.measure", [], "claims.B1.measure: missing"),
        ("claims.B1.effect.0.arm", ["nobody"], "claims.B1.effect.0.arm: 'nobody' is not in studies.core.arms"),
        ("claims.B2b.across.parameter", ["dropout"], "claims.B2b.across.parameter: 'dropout' is not in studies.learning_rate.grid"),
        ("claims.B3b.effect.0.level", [{}], "claims.B3b.effect.0.level: fits 2 levels"),
        ("claims.B3b.effect.0.level", [{"dropout": 0.7}], "claims.B3b.effect.0.level: fits no level"),
        ("claims.B3b.effect.0.level", [{"depth": 3}], "claims.B3b.effect.0.level.depth: is not in studies.dropout.grid"),
        ("claims.L1.smallest_effect", [], "claims.L1.smallest_effect: missing"),
        ("claims.L1.measure", [{"kind": "after_epoch", "column": "val_loss", "epoch": 1}], "claims.L1.measure: the stage timing measures"),
        ("studies.core.arms", [["baseline", "ghost"]], "studies.core.arms: 'ghost' is not declared under arms"),
        ("studies.learning_rate.grid.learning_rate", [[-1.0]], "studies.learning_rate.grid.learning_rate"),
        ("studies.core.seeds", [[1, 1]], "studies.core.seeds: has a value twice"),
        ("arms.baseline", [{"dropout": 0.5}], "arms.baseline: is declared in params.yaml already"),
        ("timing.blocks", [2], "timing.blocks"),
        ("claims.B3a.measure.arms", [["baseline", "batchnorm"]], "claims.B3a.measure.arms: 'batchnorm' is not in studies.core.arms"),
        ("studies.learning_rate.grid.learning_rate", [[0.1, 0]], "studies.learning_rate.grid"),
        ("studies.timing", [{"arms": ["baseline"], "grid": {}, "seeds": [0]}], "studies.timing: is the name of a stage"),
        ("common", [{}], "common: Extra inputs are not permitted"),
        ("timing.legs", [2], "timing.legs: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(changed_claims, path, to, told):
    with pytest.raises(PipelineError, match=rf"claims/params\.yaml: {told}") as error:
        check_claims(changed_claims(path, *to))
    assert "\n" not in str(error.value)


def test_a_stage_reads_its_own_sections_alone(changed_claims):
    path = changed_claims("timing.blocks", 2)
    assert read_claims(read_studies(path), path).significance == 0.05
    assert "core" in read_trials(path).studies
    with pytest.raises(PipelineError, match=r"claims\.B1\.unit"):
        path = changed_claims("claims.B1.unit", "stars")
        assert read_trials(path)
        read_claims(read_studies(path), path)
