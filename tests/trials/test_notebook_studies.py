import pytest

from pipeline.common.errors import PipelineError
from pipeline.trials.parameters import load_parameters

GRID = ("studies", "batch_size_grid")
OTHER = {"arms": ["baseline", "batch_norm"], "grid": {"learning_rate": [0.1, 0.01]}, "seeds": [0], "log_models": False}
WRONG = [
    (("studies",), {}, "studies.train: missing"),
    (("studies", "train", "arms"), ["batch_norm"], "studies.train.arms: the report compares 'baseline'; add it"),
    (("studies", "train", "arms"), ["baseline"], "studies.train.arms: the report compares 'batch_norm'; add it"),
    (("studies", "train", "grid"), {"batch_size": [32]}, "studies.train.grid: should be {}"),
    (("arms", "baseline", "epochs"), 5, "arms.baseline.epochs: should be equal in all arms"),
    (("arms", "batch_norm", "epochs"), 30, "arms.batch_norm.epochs: should be equal in all arms"),
    (("arms", "batch_norm", "earlier_batch_sizes"), [32], "arms.batch_norm.earlier_batch_sizes: should be [] here"),
    (("trial", "earlier_batch_sizes"), [32], "arms."),
    (("arms", "baseline", "normalization"), "layer", "arms.baseline.normalization: should be 'none'"),
    (("arms", "batch_norm", "normalization"), "none", "arms.batch_norm.normalization: should be 'batch'"),
    ((*GRID, "arms"), ["batch_norm", "baseline"], "studies.batch_size_grid.arms: should be [batch_norm]"),
    ((*GRID, "arms"), ["baseline"], "studies.batch_size_grid.arms: should be [batch_norm]"),
    ((*GRID, "grid"), {}, "studies.batch_size_grid.grid: should have the key batch_size alone"),
    ((*GRID, "grid"), {"learning_rate": [0.1]}, "studies.batch_size_grid.grid: should have the key batch_size alone"),
    ((*GRID, "grid", "epochs"), [20], "studies.batch_size_grid.grid: should have the key batch_size alone"),
]


@pytest.mark.reliability
@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[f"{'.'.join(path)}={value}" for path, value, _ in WRONG])
def test_what_the_stages_or_the_report_could_not_do_is_refused_at_once(changed, record_property, path, value, message):
    with pytest.raises(PipelineError) as raised:
        load_parameters(changed(*path, to=value))
    assert f"params.yaml: {message}" in str(raised.value)
    assert "\n" not in str(raised.value)
    record_property("bad_parameters_refused", 1)


@pytest.mark.parametrize("name", ["train", "batch_size_grid"])
def test_a_study_that_dvc_yaml_trains_cannot_be_left_out(changed, name):
    with pytest.raises(PipelineError, match=rf"params\.yaml: studies\.{name}: missing; dvc\.yaml trains it"):
        load_parameters(changed("studies", name))


@pytest.mark.parametrize("study", [OTHER, {**OTHER, "grid": {}}, {**OTHER, "grid": {"epochs": [1, 2], "normalization": ["layer"]}}])
def test_other_studies_are_free(changed, study):
    assert load_parameters(changed("studies", "learning_rates", to=study)).studies["learning_rates"].grid == study["grid"]


def test_an_arm_of_another_study_may_have_other_epochs(changed):
    load_parameters(changed("arms", "longer", to={"epochs": 30}))
