"""The layers that the stage `evaluate` lists are those of the network that is built."""

import pytest

from pipeline.evaluation.networks import list_layers, name_layer


@pytest.fixture
def layers(parameters, examples):
    def of(arm, **fields):
        config = parameters.trial_config(arm, {}, seed=0).model_copy(update=fields)
        return list_layers({arm: config}, examples[0])

    return of


def test_parameter_counts_of_the_notebook(layers):
    without, with_batch_norm = layers("baseline"), layers("batch_norm")
    assert (without["trained"].sum(), without["moving"].sum()) == (1_738_890, 0)
    assert with_batch_norm[["trained", "moving"]].sum().tolist() == [1_738_890 + 3_584 // 2, 3_584 // 2]


def test_layers_stand_in_their_order_with_their_outputs(layers):
    table = layers("batch_norm", normalization_position="before_activation", dropout=0.3, hidden_units=[4])
    names = ["Rescaling", "Flatten", "Dense", "Batch normalization", "ReLU", "Dropout", "Dense", "Softmax"]
    assert table["layer"].tolist() == names
    assert table["output"].tolist() == ["32 × 32 × 3", "3072", "4", "4", "4", "4", "10", "10"]
    assert table["moving"].tolist() == [0, 0, 0, 8, 0, 0, 0, 0]
    assert set(table["arm"]) == {"batch_norm"}


@pytest.mark.parametrize(
    ("keras_class", "name"), [("ReLU", "ReLU"), ("LayerNormalization", "Layer normalization"), ("MaxPooling2D", "Max pooling2D")]
)
def test_a_keras_class_is_named_in_words(keras_class, name):
    assert name_layer(keras_class) == name
