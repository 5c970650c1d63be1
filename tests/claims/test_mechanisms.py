import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from ruamel.yaml import YAML

from claims import mechanisms
from claims.probes import working_principle
from claims.probes.arms import probe_arms, read_arms
from claims.probes.discrepancy import measure_discrepancy
from claims.probes.network_probes import (
    DISTANCE_FACTORS,
    Probes,
    build_loss_and_gradients,
    find_step,
    measure_drift,
    measure_gradient_shift,
    measure_landscape,
    measure_units,
    restoring,
    trace,
)
from claims.probes.parameters import Mechanisms
from claims.probes.probed_training import probe_training, train_by_updates
from claims.probes.tables import MECHANISM_COLUMNS
from claims.probes.working_principle import check_working_principle
from pipeline.common.errors import PipelineError
from pipeline.images.arrays import Examples
from pipeline.training.network import build_model
from pipeline.training.optimizer import build_optimizer
from pipeline.training.steps import build_train_steps
from pipeline.training.trial import run_trial
from tests.conftest import ROOT

ARMS = ["baseline", "batch_norm"]
SIZES = [2, 16, 64]
CHECKS = {
    *("normalized_mean", "normalized_sd", "output_mean", "output_sd", "keras_training_mode", "keras_inference_mode"),
    *("moving_mean", "moving_variance", "backward_pass", "gradient_sum", "folding"),
}
SHOWN = {"normalized_sd_from_1", "inference_mean", "inference_sd", "batch_mates"}


def config_of(parameters, arm="batch_norm", **fields):
    return parameters.trial_config(arm, {"hidden_units": [32, 16], "batch_size": 32, "epochs": 2, **fields}, seed=0)


@pytest.fixture(scope="module")
def trained(parameters, examples) -> keras.Sequential:
    """Trained at a momentum that lets its moving averages follow within the 28 updates."""
    return run_trial(config_of(parameters, batch_size=16, batch_norm_momentum=0.8), *examples, lambda _: None)


@pytest.fixture(scope="module")
def settings():
    return Mechanisms(seed=0, epochs=2, images=80, steps=[0, 1, 3, 10_000], batch_sizes=SIZES)


def values_of(*variables) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]


def assert_equal(ours, theirs) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


# Passes and samples


def test_a_pass_with_batch_statistics_is_keras_training_mode(trained, examples):
    images = examples[0].images[:32]
    with restoring(trained.variables):
        before = values_of(*trained.non_trainable_variables)
        passes = trace(trained, images, batch_statistics=True)
        assert not np.array_equal(before[0], trained.non_trainable_variables[0])
    assert_equal(values_of(*trained.non_trainable_variables), before)
    with restoring(trained.variables):
        probabilities = trained(images, training=True)
    np.testing.assert_allclose(tf.nn.softmax(passes[-1].outputs), probabilities, atol=1e-6)
    assert [layer_pass.layer for layer_pass in passes] == trained.layers[:-1]


def test_a_pass_without_them_is_inference(trained, examples):
    images = examples[0].images[:32]
    logits = trace(trained, images, batch_statistics=False)[-1].outputs
    np.testing.assert_allclose(tf.nn.softmax(logits), trained(images, training=False), atol=1e-6)


def test_dropout_is_off_in_every_pass(parameters, examples):
    model = build_model(config_of(parameters, dropout=0.5), 0, (32, 32, 3), 10)
    first, second = (trace(model, examples[0].images[:32], batch_statistics=True)[-1].outputs for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_variables_are_restored_after_an_error_too(trained):
    before = values_of(*trained.variables)
    with pytest.raises(ZeroDivisionError), restoring(trained.variables):
        for variable in trained.trainable_variables:
            variable.assign(variable + 1)
        raise ZeroDivisionError
    assert_equal(values_of(*trained.variables), before)


@pytest.fixture
def probed(parameters, examples):
    """A network some updates into its training, its optimizer, and probes of both."""

    def make(arm="batch_norm", **fields):
        config = config_of(parameters, arm, **fields)
        model, optimizer = build_model(config, 0, (32, 32, 3), 10), build_optimizer(config, 210)
        for step, _ in train_by_updates(model, optimizer, config, examples[0]):
            if step == 4:
                break
        return model, optimizer, Probes(model, optimizer, config.optimizer, examples[1].images, examples[0].first(32))

    return make


@pytest.mark.parametrize("arm", ARMS)
def test_a_sample_leaves_network_and_optimizer_as_they_are(probed, arm):
    model, optimizer, probes = probed(arm)
    before = values_of(*model.variables, *optimizer.variables)
    probes.sample()
    assert_equal(values_of(*model.variables, *optimizer.variables), before)


@pytest.mark.parametrize("arm", ARMS)
def test_what_does_not_train_does_not_drift(probed, arm):
    _, _, probes = probed(arm)
    assert probes.sample()["drift"] == []
    assert probes.sample()["drift"] == [{"layer": layer, "mean_shift": 0, "log_sd_shift": 0} for layer in (1, 2)]


def test_drift_is_taken_on_what_the_next_dense_layer_gets(probed, examples):
    """With Batch Normalization its mean is β and its SD about |γ|, so that only these can move it."""
    model, _, probes = probed()
    probes.sample()
    layer = model.get_layer("normalization_1")
    layer.beta.assign(layer.beta + 1)
    drift = probes.sample()["drift"]
    sd = trace(model, examples[1].images, batch_statistics=True)[4].outputs.numpy().astype(np.float64).std(axis=0)
    assert drift[0]["mean_shift"] == pytest.approx((1 / sd[sd > 0]).mean(), rel=1e-3)
    assert drift[0]["log_sd_shift"] == pytest.approx(0, abs=1e-6)
    assert drift[1]["mean_shift"] < drift[0]["mean_shift"]


# Each probe, by hand


def test_drift_by_hand():
    means, sds = np.array([[1.0, 0.0, 7.0, 7.0], [2.0, 5.0, 8.0, 8.0]]), np.array([[1.0, 3.0, 0.0, 2.0], [1.0, 1.0, 2.0, 0.0]])
    before, now = (np.stack([mean - sd, mean + sd]) for mean, sd in zip(means, sds, strict=True))
    expected = {"mean_shift": (1 / 1 + 5 / np.sqrt(5)) / 2, "log_sd_shift": np.log(3) / 2}  # the last two do not vary in both
    assert measure_drift(before, now) == pytest.approx(expected)


def test_where_nothing_varies_there_is_no_drift_to_tell():
    constant = np.full((2000, 3), 0.1, np.float32).astype(np.float64)
    assert np.isnan([*measure_drift(constant, constant).values()]).all()


def test_units_by_hand():
    outputs = np.zeros((1000, 8), np.float32)
    for unit, active in enumerate((0, 0, 9, 10, 500, 990, 991, 1000)):
        outputs[:active, unit] = 0.5
    assert measure_units(outputs) == {"dead": 2 / 8, "nearly_dead": 1 / 8, "always_on": 2 / 8}


def test_counts_the_units_that_a_kernel_kills(probed):
    model, _, probes = probed("baseline")
    before = probes.sample()["units"][0]["dead"]
    kernel, bias = model.get_layer("dense_1").get_weights()
    kernel[:, :30], bias[:30] = -1, 0  # no image is negative
    kernel[:, 30:], bias[30:] = 1, 1
    model.get_layer("dense_1").set_weights([kernel, bias])
    assert before < 0.9
    assert probes.sample()["units"][0] == {"layer": 1, "dead": 30 / 32, "nearly_dead": 0, "always_on": 2 / 32}


@pytest.mark.parametrize("arm", ARMS)
def test_the_step_is_the_one_that_training_takes_next(probed, examples, arm):
    model, optimizer, _ = probed(arm)
    variables, batch = model.trainable_variables, examples[0].first(32)
    start = values_of(*variables)
    step = find_step(optimizer, variables, build_loss_and_gradients(model, batch)()[1])
    assert_equal(values_of(*variables), start)
    build_train_steps(model, optimizer)(tf.constant(batch.images[None]), tf.constant(batch.labels[None]))
    for variable, value, by in zip(variables, start, step, strict=True):
        np.testing.assert_allclose(variable, value + by, rtol=0, atol=1e-6)
        assert np.abs(by).max() > 1e-4


@pytest.mark.parametrize("arm", ARMS)
def test_layers_that_do_not_move_shift_no_gradient(probed, examples, arm):
    model, _, _ = probed(arm)
    still = [np.zeros_like(value) for value in values_of(*model.trainable_variables)]
    rows = measure_gradient_shift(model, build_loss_and_gradients(model, examples[0].first(32)), still)
    assert [row["layer"] for row in rows] == [2, 3]
    assert [row["relative_change"] for row in rows] == [0, 0]
    assert [row["cosine"] for row in rows] == pytest.approx([1, 1])


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(
    ("layer", "below"), [(2, ["dense_1", "normalization_1"]), (3, ["dense_1", "normalization_1", "dense_2", "normalization_2"])]
)
def test_a_gradient_shifts_by_what_the_layers_below_do(probed, examples, arm, layer, below):
    """By hand: put the trained-on values into the layers below, and take the gradient with Keras's own training mode."""
    model, optimizer, _ = probed(arm)
    batch = examples[0].first(32)
    kernel = [each.kernel for each in model.layers if isinstance(each, keras.layers.Dense)][layer - 1]

    def gradient():
        with restoring(model.non_trainable_variables), tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(batch.labels, model(batch.images, training=True)))
            return tape.gradient(loss, kernel).numpy()

    differentiate = build_loss_and_gradients(model, batch)
    step = find_step(optimizer, model.trainable_variables, differentiate()[1])
    row = measure_gradient_shift(model, differentiate, step)[layer - 2]
    before = gradient()
    for variable, by in zip(model.trainable_variables, step, strict=True):
        if variable.path.split("/")[-2] in below:
            variable.assign(variable + by)
    after = gradient()
    assert row["relative_change"] == pytest.approx(np.linalg.norm(before - after) / np.linalg.norm(before), rel=1e-3)
    assert row["cosine"] == pytest.approx((before * after).sum() / np.linalg.norm(before) / np.linalg.norm(after), rel=1e-3)
    assert row["relative_change"] > 0.01


def test_the_landscape_of_a_loss_that_is_known():
    """One weight w, and a loss whose gradient is 2w: both measures of its change are known."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    [weight] = model.trainable_variables
    weight.assign([[3.0]])
    rows = measure_landscape(model, lambda: (tf.reduce_sum(weight**2), [2 * weight.value]), [np.array([[0.5]], np.float32)])
    assert [row["distance_factor"] for row in rows] == list(DISTANCE_FACTORS)
    for row in rows:
        distance = 0.5 * row["distance_factor"]
        assert row["loss"] == pytest.approx((3 + distance) ** 2)
        assert row["gradient_change"] == pytest.approx(distance / 3)
        assert row["effective_smoothness"] == pytest.approx(2)
    assert weight.numpy() == 3


@pytest.mark.parametrize(("optimizer_name", "arm"), [("adam", "batch_norm"), ("adam", "baseline"), ("sgd", "batch_norm")])
def test_the_landscape_goes_along_the_optimizers_step_and_as_far_down_the_gradient(probed, examples, optimizer_name, arm):
    model, optimizer, probes = probed(arm, optimizer=optimizer_name, learning_rate=0.01)
    rows = pd.DataFrame(probes.sample()["landscape"]).set_index(["direction", "distance_factor"])
    assert set(rows.index.get_level_values("direction")) == {"gradient", optimizer_name}
    batch = examples[0].first(32)
    differentiate = build_loss_and_gradients(model, batch)
    gradients = differentiate()[1]
    start = [variable.numpy() for variable in model.trainable_variables]
    with restoring(model.variables):
        optimizer.apply(gradients, model.trainable_variables)
        length = tf.linalg.global_norm([variable - value for variable, value in zip(model.trainable_variables, start, strict=True)])
        assert rows.loc[(optimizer_name, 1.0), "loss"] == pytest.approx(float(differentiate()[0]), rel=1e-5)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        variable.assign(variable - 2 * length / tf.linalg.global_norm(gradients) * gradient)
    assert rows.loc[("gradient", 2.0), "loss"] == pytest.approx(float(differentiate()[0]), rel=1e-4)


# Training


@pytest.mark.parametrize(
    ("arm", "fields"),
    [
        ("baseline", {}),
        ("batch_norm", {}),
        ("batch_norm", {"dropout": 0.3, "training_images": 150, "earlier_batch_sizes": [64], "epochs": 1}),
    ],
)
def test_probed_training_is_the_trials_own_training(parameters, examples, settings, arm, fields):
    config = config_of(parameters, arm, **fields)
    trial = run_trial(config, *examples, lambda _: None)
    probed, plain = build_model(config, config.seed, (32, 32, 3), 10), build_model(config, config.seed, (32, 32, 3), 10)
    probe_training(arm, probed, config, settings, *examples)
    for _ in train_by_updates(plain, build_optimizer(config, 210), config, examples[0]):
        pass
    assert_equal(values_of(*probed.weights), values_of(*trial.weights))
    assert_equal(values_of(*plain.weights), values_of(*trial.weights))


def test_stops_before_the_first_update_after_each_and_tells_where_epochs_end(parameters, examples):
    config = config_of(parameters, batch_size=100)
    moments = train_by_updates(build_model(config, 0, (32, 32, 3), 10), build_optimizer(config, 210), config, examples[0])
    assert [*moments] == [(0, None), (1, None), (2, None), (3, 1), (4, None), (5, None), (6, 2)]


# Training mode against inference mode


def test_batches_that_are_the_population_make_no_difference_of_modes(trained, examples):
    validation = examples[1].first(64)
    before = values_of(*trained.variables)
    rows = measure_discrepancy(trained, validation, 64)
    assert [row["layer"] for row in rows] == [1, 2]
    for row in rows:
        assert row["accuracy_training_mode"] == row["accuracy_inference_mode"]
        assert row["divergence"] == pytest.approx(0, abs=1e-6)
        assert row["rms_ratio"] == pytest.approx(1, abs=1e-5)
        assert row["theory"] == pytest.approx((64 / 63) ** (row["layer"] / 2))
    assert_equal(values_of(*trained.variables), before)


def test_modes_are_those_of_keras(trained, examples):
    """Batches of 32 of 90 images: training mode batch by batch, then inference mode by the means of what the layers took."""
    validation = examples[1]
    taken: dict[str, list] = {}
    training = []
    with restoring(trained.variables):
        for start in (0, 32):
            passes = trace(trained, validation.images[start : start + 32], batch_statistics=True)
            training.append(passes[-1].outputs.numpy())
            for layer, inputs, _ in passes:
                if isinstance(layer, keras.layers.BatchNormalization):
                    taken.setdefault(layer.name, []).append([inputs.numpy().mean(axis=0), inputs.numpy().var(axis=0)])
        for name, statistics in taken.items():
            trained.get_layer(name).moving_mean.assign(np.mean([mean for mean, _ in statistics], axis=0))
            trained.get_layer(name).moving_variance.assign(np.mean([variance for _, variance in statistics], axis=0))
        inference = trace(trained, validation.images[:64], batch_statistics=False)[-1].outputs.numpy()
    row = measure_discrepancy(trained, validation, 32)[0]
    labels, training = validation.labels[:64], np.concatenate(training)
    assert row["accuracy_training_mode"] == (training.argmax(axis=1) == labels).mean()
    assert row["accuracy_inference_mode"] == (inference.argmax(axis=1) == labels).mean()
    p, q = tf.nn.softmax(inference).numpy(), tf.nn.softmax(training).numpy()
    assert row["divergence"] == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-3)
    assert row["divergence"] > 1e-3


def noise(count) -> Examples:
    random = np.random.default_rng(0)
    return Examples(random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.zeros(count, np.uint8), tuple(map(str, range(10))))


@pytest.mark.parametrize("batch_size", [2, 4, 8])
def test_the_theory_holds_in_the_first_layer_and_is_a_bound_above_it(parameters, batch_size):
    """Normalized before the activation, so that no unit is silent, with a negligible ε."""
    model = build_model(config_of(parameters, normalization_position="before_activation", batch_norm_epsilon=1e-9), 0, (32, 32, 3), 10)
    first, second = measure_discrepancy(model, noise(1600), batch_size)
    assert first["rms_ratio"] == pytest.approx(first["theory"], rel=0.005)
    assert second["theory"] == batch_size / (batch_size - 1)
    assert 1.01 * first["theory"] < second["rms_ratio"] < 0.98 * second["theory"]


@pytest.mark.parametrize("batch_size", [2, 4, 8])
def test_without_nonlinearity_no_layer_but_the_first_adds_to_the_discrepancy(batch_size):
    """Normalized batches all have the mean 0, so that above them the mean of their variances is that of the population."""
    layers = [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    for seed in range(3):
        layers.append(keras.layers.Dense(40, kernel_initializer=keras.initializers.GlorotUniform(seed)))
        layers.append(keras.layers.BatchNormalization(epsilon=1e-9))
    model = keras.Sequential([*layers, keras.layers.Dense(10), keras.layers.Softmax()])
    rows = measure_discrepancy(model, noise(1600), batch_size)
    assert [row["rms_ratio"] for row in rows] == pytest.approx([rows[0]["theory"]] * 3, rel=0.02)


# The working principle


@pytest.fixture
def check(trained, examples):
    """Check `trained`, as it is now."""

    def make() -> pd.DataFrame:
        train, validation = examples
        return pd.DataFrame(check_working_principle(trained, train.first(64), train.images[64:127], validation.images))

    return make


def test_the_working_principle_holds_in_a_trained_network(trained, check):
    before = values_of(*trained.variables)
    rows = check()
    assert_equal(values_of(*trained.variables), before)
    tested = rows[rows["tolerance"].notna()]
    assert set(tested["check"]) == CHECKS
    assert set(rows["check"]) == CHECKS | SHOWN
    assert rows["passes"].all()
    assert tested.set_index("check")["tolerance"].to_dict() == {**dict.fromkeys(CHECKS, 1e-5), "folding": 1e-4}
    without_layer = {"batch_mates", "folding"}
    assert set(rows.loc[rows["layer"].isna(), "check"]) == without_layer
    assert (rows[rows["layer"].notna()].groupby("check")["layer"].agg(tuple) == (1.0, 2.0)).all()
    assert (rows[rows["check"].isin(SHOWN)].groupby("check")["largest_error"].max() > 0.01).all()


@pytest.mark.parametrize(
    ("name", "wrong", "failing"),
    [
        (
            "normalize",
            lambda inputs, mean, variance, epsilon: (inputs - mean) / np.sqrt(variance * 64 / 63 + epsilon),
            {"keras_training_mode", "keras_inference_mode", "backward_pass"},
        ),
        (
            "propagate_back",
            lambda inputs, upstream, gamma, epsilon: gamma * upstream / np.sqrt(inputs.var(axis=0) + epsilon),
            {"backward_pass"},
        ),
        ("fold_batch_normalization", lambda model: build_model_like(model), {"folding"}),
    ],
)
def test_what_is_computed_wrongly_by_hand_does_not_pass(check, monkeypatch, name, wrong, failing):
    monkeypatch.setattr(working_principle, name, wrong)
    rows = check()
    assert set(rows.loc[~rows["passes"], "check"]) == failing


def build_model_like(model):
    return keras.Sequential([model.inputs[0], *(layer for layer in model.layers if not isinstance(layer, keras.layers.BatchNormalization))])


def test_a_layer_that_takes_its_moving_averages_in_training_does_not_pass(trained, check):
    layers = [layer for layer in trained.layers if isinstance(layer, keras.layers.BatchNormalization)]
    try:
        for layer in layers:
            layer.trainable = False
        rows = check()
    finally:
        for layer in layers:
            layer.trainable = True
    failing = {"normalized_mean", "normalized_sd", "output_mean", "output_sd", "keras_training_mode", "moving_mean", "moving_variance"}
    assert set(rows.loc[~rows["passes"], "check"]) == failing | {"backward_pass", "gradient_sum"}


# The stage


@pytest.fixture
def project(tmp_path, processed, monkeypatch):
    """The project's parameters, made small, with the examples as data; the current folder."""
    yaml = YAML()
    common, claims = (yaml.load(ROOT / path) for path in ("params.yaml", "claims/params.yaml"))
    common["trial"] |= {"hidden_units": [16, 8], "batch_size": 32}
    claims["mechanisms"] |= {"epochs": 2, "images": 80, "steps": [0, 1, 3], "batch_sizes": SIZES}
    (tmp_path / "claims").mkdir()
    yaml.dump(common, tmp_path / "params.yaml")
    yaml.dump(claims, tmp_path / "claims/params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mechanisms"])
    return tmp_path


def read(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_stage_writes_every_table_and_the_same_bytes_again(project, capfd):
    folder = project / "reports/claims/mechanisms"
    mechanisms.main()
    first = read(folder)
    mechanisms.main()
    assert read(folder) == first
    assert (project / "reports/claims/environment/mechanisms.json").exists()
    said = capfd.readouterr().out
    assert "baseline: 1/2 epochs probed, about " in said
    assert "batch_norm: 2/2 epochs probed\n" in said
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in MECHANISM_COLUMNS}
    assert set(first) == {f"{name}.csv" for name in tables}
    assert {name: list(table) for name, table in tables.items()} == MECHANISM_COLUMNS
    assert not any(table.drop(columns=["layer", "tolerance"], errors="ignore").isna().any().any() for table in tables.values())
    assert _levels(tables["units"], "arm", "step", "layer") == (set(ARMS), {0, 1, 3, 7, 14}, {1, 2})
    assert _levels(tables["drift"], "arm", "step", "layer") == (set(ARMS), {1, 3, 7, 14}, {1, 2})
    assert _levels(tables["gradient_shift"], "arm", "step", "layer") == (set(ARMS), {0, 1, 3, 7, 14}, {2, 3})
    assert _levels(tables["landscape"], "arm", "direction", "distance_factor") == (set(ARMS), {"gradient", "adam"}, set(DISTANCE_FACTORS))
    assert _levels(tables["discrepancy"], "batch_size", "step", "layer") == (set(SIZES), {0, 14}, {1, 2})
    assert set(tables["working_principle"]["check"]) == CHECKS | SHOWN
    assert tables["working_principle"]["passes"].all()


def _levels(table, *columns) -> tuple[set, ...]:
    """The values of each column; every combination of them stands in one row."""
    levels = tuple(set(table[column]) for column in columns)
    others = [column for column in ("step",) if column in table and column not in columns]
    assert len(table) == np.prod([len(level) for level in levels]) * np.prod([table[column].nunique() for column in others])
    assert not table.duplicated([*columns, *others]).any()
    return levels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_sizes": [2, 81]}, r"mechanisms\.batch_sizes: 81 is more than mechanisms\.images, 80; "),
        ({"images": 91}, r"mechanisms\.images: 91 asked for, and the validation set has 90; ask for fewer"),
    ],
)
def test_more_images_than_there_are_are_refused_at_once(project, settings, change, message):
    with pytest.raises(PipelineError, match=message):
        probe_arms(read_arms(seed=0), settings.model_copy(update=change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_norm": {"depth": 3}}, r"params\.yaml: arms\.batch_norm\.depth: Extra inputs are not permitted"),
        ({"other": {}}, r"params\.yaml: arms\.batch_norm: missing; "),
    ],
)
def test_a_wrong_arm_is_named(project, change, message):
    yaml = YAML()
    content = yaml.load(project / "params.yaml")
    content["arms"] = {"baseline": {}, **change}
    yaml.dump(content, project / "params.yaml")
    with pytest.raises(PipelineError, match=message):
        read_arms(seed=0)
