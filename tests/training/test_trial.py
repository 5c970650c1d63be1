import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.images.arrays import Examples
from pipeline.training import inference, settings, steps, trial
from pipeline.training.metric_names import BATCH_NORM_METRICS, EPOCH_METRICS
from pipeline.training.metrics import build_evaluation
from pipeline.training.network import NETWORKS, build_model, hidden_block, kernel_initializer
from pipeline.training.seeds import data_order


def config_of(parameters, arm="batch_norm", **fields):
    return parameters.trial_config(arm, {"hidden_units": [32, 16], "batch_size": 32, "epochs": 2, **fields}, seed=0)


def run(config, examples) -> tuple[keras.Sequential, list[dict[str, float]]]:
    history: list[dict[str, float]] = []
    return trial.run_trial(config, *examples, history.append), history


def test_bytes_and_integer_labels_give_the_notebooks_loss_and_gradients(parameters, examples):
    """The notebook scales to floats beforehand, one-hot encodes, and takes categorical cross-entropy of probabilities."""
    train, _ = examples
    model = build_model(config_of(parameters, "baseline"), 0, (32, 32, 3), 10)
    logits_model = keras.Model(model.inputs, model.get_layer("logits").output)
    notebook = keras.Sequential([layer for layer in model.layers if layer.name != "rescaling"])
    scaled, one_hot = train.images.astype(np.float32) / 255, keras.utils.to_categorical(train.labels, 10)
    with tf.GradientTape(persistent=True) as tape:
        ours = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(train.labels, tf.int32), logits_model(train.images)))
        theirs = tf.reduce_mean(keras.losses.categorical_crossentropy(one_hot, notebook(scaled)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    variables = model.trainable_variables
    for ours_gradient, theirs_gradient in zip(tape.gradient(ours, variables), tape.gradient(theirs, variables), strict=True):
        np.testing.assert_allclose(ours_gradient, theirs_gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("arm", ["baseline", "batch_norm"])
def test_trains_as_keras_fit_does(parameters, examples, arm):
    """Same kernels, same order, Keras's own fit, Adam, loss, metrics and last smaller batch."""
    train, validation = examples
    config = config_of(parameters, arm, epochs=1)
    order = data_order(config.seed, 1, len(train.labels))
    reference = build_model(config, config.seed, (32, 32, 3), 10)
    reference.compile(keras.optimizers.Adam(config.learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    validation_data = (validation.images, validation.labels)
    fit = reference.fit(
        train.images[order], train.labels[order], config.batch_size, 1, shuffle=False, verbose=0, validation_data=validation_data
    )
    model, [metrics] = run(config, examples)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert metrics[name] == pytest.approx(fit.history[name][0], rel=1e-3), name
    for ours, theirs in zip(model.weights, reference.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-4, err_msg=ours.path)


def test_measures_the_training_examples_in_inference_mode(parameters, examples):
    model, history = run(config_of(parameters), examples)
    train = examples[0]
    predicted = model(train.images, training=False).numpy().argmax(axis=1)
    assert history[-1]["train_eval_accuracy"] == pytest.approx((predicted == train.labels).mean())


def test_recalibration_uses_the_statistics_of_all_training_examples(parameters, examples):
    train, validation = examples
    model, history = run(config_of(parameters), examples)
    features = train.images
    for layer in model.layers[:-1]:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(features.numpy().mean(axis=0))
            layer.moving_variance.assign(features.numpy().var(axis=0))
        features = layer(features, training=False)
    predicted = model(validation.images, training=False).numpy().argmax(axis=1)
    assert history[-1]["val_accuracy_recalibrated"] == pytest.approx((predicted == validation.labels).mean())


def test_recalibrates_the_metrics_of_training_images_too(parameters, examples):
    """Over all training examples, population statistics are those of one batch that holds them all."""
    model, history = run(config_of(parameters), examples)
    features = examples[0].images
    for layer in model.layers[:-1]:
        features = layer(features, training=True)
    predicted = features.numpy().argmax(axis=1)
    assert history[-1]["train_eval_accuracy_recalibrated"] == pytest.approx((predicted == examples[0].labels).mean())


@pytest.mark.parametrize("batch_size", [32, 45, 90, 1000])
def test_batch_statistics_are_those_of_the_batch_that_an_image_stands_in(parameters, examples, batch_size):
    """Of 90 validation images, batches of 32 leave a smaller last one, and 1,000 are never full."""
    model, history = run(config_of(parameters, batch_size=batch_size), examples)
    images, labels = examples[1].images, examples[1].labels
    predicted = [
        model(images[start : start + batch_size], training=True).numpy().argmax(axis=1) for start in range(0, len(images), batch_size)
    ]
    assert history[-1]["val_accuracy_batch_statistics"] == pytest.approx((np.concatenate(predicted) == labels).mean())


def test_batch_statistics_are_taken_with_dropout_off(parameters, examples):
    model, history = run(config_of(parameters, dropout=0.5, batch_size=90), examples)
    features = examples[1].images
    for layer in model.layers:
        features = layer(features, training=isinstance(layer, keras.layers.BatchNormalization))
    assert history[-1]["val_accuracy_batch_statistics"] == pytest.approx((features.numpy().argmax(axis=1) == examples[1].labels).mean())


def test_unbiased_is_inference_with_bessels_correction_of_the_moving_variances(parameters, examples):
    model, history = run(config_of(parameters, batch_size=3), examples)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(layer.moving_variance * 3 / 2)
    predicted = model(examples[1].images, training=False).numpy().argmax(axis=1)
    assert history[-1]["val_accuracy_unbiased"] == pytest.approx((predicted == examples[1].labels).mean())


def test_batches_of_one_have_no_correction(parameters, examples):
    _, history = run(config_of(parameters, batch_size=1, epochs=1), examples)
    assert history[-1]["val_loss_unbiased"] == history[-1]["val_loss"]


def test_the_variance_ratio_is_the_moving_variance_over_that_of_the_population(parameters, examples):
    model, history = run(config_of(parameters), examples)
    features = model.get_layer("relu_1")(model.get_layer("dense_1")(model.get_layer("flatten")(examples[0].images / np.float32(255))))
    expected = model.get_layer("normalization_1").moving_variance.numpy().mean() / features.numpy().var(axis=0).mean()
    assert history[-1]["variance_ratio_1"] == pytest.approx(expected, rel=1e-4)
    assert {name for name in history[-1] if name.startswith("variance_ratio")} == {"variance_ratio_1", "variance_ratio_2"}


def test_trains_on_the_images_at_the_front_alone(parameters, examples):
    train, validation = examples
    subset = config_of(parameters, training_images=64)
    _, history = run(subset, examples)
    _, alone = run(config_of(parameters), (train.first(64), validation))
    assert history == alone


def test_one_model_can_be_trained_on_through_batch_sizes(parameters, examples):
    """What is trained at the first size is what a fresh model of that size is; then it goes on with its weights and moments."""
    _, continued = run(config_of(parameters, earlier_batch_sizes=[16, 64], batch_size=32), examples)
    _, fresh = run(config_of(parameters, batch_size=16), examples)
    assert [row["epoch"] for row in continued] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "val_loss", "train_eval_accuracy"):
        assert [row[name] for row in continued[:2]] == [row[name] for row in fresh], name
    assert continued[2]["loss"] < fresh[0]["loss"]


def test_measures_what_the_list_of_metrics_names(parameters, examples):
    for arm, listed in (("baseline", EPOCH_METRICS), ("batch_norm", {**EPOCH_METRICS, **BATCH_NORM_METRICS})):
        _, history = run(config_of(parameters, arm=arm), examples)
        assert {name for name in history[-1] if not name.startswith("variance_ratio")} == {"epoch", *listed}


def test_a_further_momentum_gives_what_training_with_it_gives(parameters, examples):
    """Moving averages decide nothing about the weights, so one training can follow several."""
    _, followed = run(config_of(parameters, batch_norm_momentum=0.99, further_momentums=[0.5, 0.9]), examples)
    for momentum in (0.5, 0.9):
        _, own = run(config_of(parameters, batch_norm_momentum=momentum), examples)
        assert [row["loss"] for row in own] == [row["loss"] for row in followed]
        assert [row[f"val_loss_momentum_{momentum}"] for row in followed] == pytest.approx([row["val_loss"] for row in own], rel=1e-4)


def test_recalibrates_on_as_many_training_images_as_asked(parameters, examples):
    _, history = run(config_of(parameters, recalibration_images=[20, 210]), examples)
    assert history[-1]["val_loss_recalibrated_210"] == pytest.approx(history[-1]["val_loss_recalibrated"], rel=1e-6)
    assert history[-1]["val_loss_recalibrated_20"] != pytest.approx(history[-1]["val_loss_recalibrated"], rel=1e-3)


def test_a_convolutional_network_is_measured_as_the_mlp_is(parameters, examples, monkeypatch):
    def convnet(config, seed):
        initializer = kernel_initializer(config, seed, 1)
        block = hidden_block(config, seed, 1, keras.layers.Conv2D(4, 3, kernel_initializer=initializer, name="conv_1"))
        return [*block, keras.layers.GlobalAveragePooling2D(name="pooling")]

    monkeypatch.setitem(NETWORKS, "mlp", convnet)
    model, history = run(config_of(parameters, batch_size=210), examples)
    features = examples[0].images
    for layer in model.layers[:-1]:
        features = layer(features, training=True)
    predicted = features.numpy().argmax(axis=1)
    assert history[-1]["train_eval_accuracy_recalibrated"] == pytest.approx((predicted == examples[0].labels).mean())
    assert model.get_layer("conv_1").kernel.shape == (3, 3, 3, 4)


def test_measuring_does_not_touch_the_model(parameters, examples):
    model, _ = run(config_of(parameters), examples)
    before = [weight.numpy() for weight in model.weights]
    build_evaluation(model)(*examples, 32)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("arm", ["baseline", "batch_norm"])
def test_in_bfloat16_it_learns_alike_but_not_the_same(parameters, examples, arm):
    model, coarse = run(config_of(parameters, arm=arm, precision="bfloat16", epochs=10), examples)
    _, fine = run(config_of(parameters, arm=arm, epochs=10), examples)
    assert coarse[0].keys() == fine[0].keys()
    for name, value in ((name, value) for name, value in fine[0].items() if "variance" not in name):
        assert coarse[0][name] == pytest.approx(value, abs=0.1), name
    assert coarse[-1]["loss"] != fine[-1]["loss"]
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert inference.predict(model, examples[1].images).dtype == np.float32


def test_only_batch_normalization_is_recalibrated(parameters, examples):
    for fields in ({"normalization": "none"}, {"normalization": "layer"}):
        _, history = run(config_of(parameters, epochs=1, **fields), examples)
        assert not [name for name in history[0] if name.endswith("recalibrated")]


def test_equal_trials_give_equal_bits_in_one_process(parameters, examples):
    first_model, first = run(config_of(parameters, dropout=0.2), examples)
    second_model, second = run(config_of(parameters, dropout=0.2), examples)
    assert first == second
    for ours, theirs in zip(first_model.weights, second_model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_how_images_are_grouped_into_calls_does_not_matter(parameters, examples, monkeypatch):
    _, together = run(config_of(parameters), examples)
    monkeypatch.setattr(steps, "IMAGES_PER_CALL", 1)
    _, one_by_one = run(config_of(parameters), examples)
    assert [row["val_loss"] for row in together] == [row["val_loss"] for row in one_by_one]


def test_training_that_diverges_ends_with_its_history(parameters, examples):
    _, history = run(config_of(parameters, "baseline", optimizer="sgd", learning_rate=1e6, epochs=50), examples)
    assert len(history) < 50
    assert not np.isfinite(history[-1]["loss"])


def test_a_batch_larger_than_the_data_is_the_whole_data(parameters, examples):
    _, history = run(config_of(parameters, batch_size=100_000), examples)
    assert len(history) == 2


def test_several_workers_can_share_a_gpu(monkeypatch):
    """Each takes memory as it needs it; by default TensorFlow's first process takes all."""
    growing = []
    monkeypatch.setattr(settings.tf.config, "list_physical_devices", lambda kind: [f"{kind}:0", f"{kind}:1"])
    monkeypatch.setattr(settings.tf.config.experimental, "set_memory_growth", lambda device, grows: growing.append((device, grows)))
    for name in ("set_intra_op_parallelism_threads", "set_inter_op_parallelism_threads"):
        monkeypatch.setattr(settings.tf.config.threading, name, lambda _: None)  # fixed once TensorFlow has computed
    settings.compute_deterministically()
    assert growing == [("GPU:0", True), ("GPU:1", True)]


def test_learns_what_can_be_learned(parameters, examples):
    _, history = run(config_of(parameters, epochs=30), examples)
    assert history[-1]["val_accuracy_recalibrated"] > 0.9


def test_predicts_the_same_in_any_number(parameters, examples):
    model, _ = run(config_of(parameters), examples)
    images = np.concatenate([examples[0].images] * 6)
    assert isinstance(examples[0], Examples)
    np.testing.assert_allclose(inference.predict(model, images)[:210], inference.predict(model, images[:210]), rtol=1e-5)
