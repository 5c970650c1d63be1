import pytest

from pipeline.reporting.theory import count_parameters, initial_share, list_layers, updates_until
from pipeline.training.config import updates_per_epoch
from pipeline.trials.parameters import load_parameters
from tests.synthetic_results import PARAMS


@pytest.fixture
def config():
    return load_parameters(PARAMS).trial_config("batch_norm", {}, seed=0)


def test_parameter_counts_of_the_notebook(config):
    without = list_layers(config.model_copy(update={"normalization": "none"}))
    assert count_parameters(without) == 1_738_890
    assert count_parameters(list_layers(config)) == 1_738_890 + 3_584
    assert sum(layer.moving for layer in list_layers(config)) == 3_584 // 2


def test_layers_stand_in_the_configured_order(config):
    before = config.model_copy(update={"normalization_position": "before_activation", "dropout": 0.3, "hidden_units": [4]})
    names = [layer.name for layer in list_layers(before)]
    assert names[2:] == ["Dense", "Batch normalization", "ReLU", "Dropout 0.3", "Dense", "Softmax"]


def test_the_last_smaller_batch_is_an_update_too():
    assert [updates_per_epoch(40_000, size) for size in (32, 64, 128)] == [1250, 625, 313]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
def test_moving_averages_forget_their_start_after_the_stated_updates(momentum):
    updates = updates_until(momentum, 0.01)
    assert initial_share(momentum, updates) <= 0.01
    assert updates == 1 or initial_share(momentum, updates - 1) > 0.01
