"""Chooses the trial that validates best, and submits it to the registry in the form in which it is served."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.common.errors import PipelineError
from pipeline.common.parameters import flatten
from pipeline.common.statistics import summarize
from pipeline.images.arrays import data_md5, load_examples
from pipeline.pages.rendering import render
from pipeline.serving.folding import fold_batch_normalization
from pipeline.serving.registry import Candidate, Submission, model_name, register
from pipeline.tracking import names
from pipeline.tracking.ledger import Ledger
from pipeline.tracking.provenance import read_dataset
from pipeline.training.config import TrialConfig
from pipeline.training.inference import predict
from pipeline.training.network import build_model
from pipeline.training.result import diverged
from pipeline.trials.key import trial_key

LINEAR = "softmax_regression"
TABLES = ("trials", "per_class", "confusion_matrix", "references")
TOLERANCE = 1e-4  # by which a folded network's probabilities may differ
TIMED_IMAGES = 100  # as many as the server takes at a time
PAIRS = 20

Trials = Mapping[tuple[str, int], tuple[TrialConfig, Path]]  # configuration and weights, by arm and seed


def submit(histories: Mapping[str, pd.DataFrame], trials: Trials, output: Path) -> str:
    """Log to MLflow what `evaluate` wrote to the folder `output`, submit the trial that validates best, and say what came of it.

    `histories` has every epoch of every seed, by arm.
    """
    tested, references = (pd.read_csv(output / f"{name}.csv") for name in ("trials", "references"))
    candidate, test, validation = choose(histories), load_examples("test"), load_examples("validation")
    config, weights = trials[candidate.arm, candidate.seed]
    network = build_model(config, config.seed, validation.image_shape, len(validation.classes))
    network.load_weights(weights)
    served, form = choose_form(network, validation.images)
    data = data_md5()
    key = trial_key(config, data)
    of_arm = tested[tested["arm"] == candidate.arm]
    [row] = of_arm[of_arm["seed"] == candidate.seed].to_dict("records")
    [linear] = references[references["reference"] == LINEAR].to_dict("records")
    metrics = {names.VAL_ACCURACY: candidate.val_accuracy, names.TEST_ACCURACY: row["accuracy"], names.TEST_LOSS: row["loss"]}
    model = model_name(config.network)
    card = render(
        "model_card.md", Path(__file__).parent, model=model, dataset=read_dataset(), classes=validation.classes,
        image_shape=validation.image_shape, network=config.network,
        training_images=len(load_examples("train").labels), validation_images=len(validation.labels),
        candidate=candidate, metrics=metrics, linear=linear, form=form, trial_key=key, data_md5=data,
        calibration_error=row["expected_calibration_error"], arm_test_accuracy=summarize(of_arm["accuracy"]),
        settings=list(flatten(config.model_dump())),
    )  # fmt: skip
    submission = Submission(
        model, candidate, key, data, linear["val_accuracy"], served, validation.classes, form, card, metrics, test.images[:1]
    )
    means = {
        names.ARM_TEST_METRIC.format(arm, metric): summarize(table[metric]).mean
        for arm, table in tested.groupby("arm", sort=False)
        for metric in ("accuracy", "loss")
    }
    test_md5 = hashlib.md5(test.images.tobytes() + test.labels.tobytes(), usedforsecurity=False).hexdigest()
    with Ledger() as ledger, ledger.evaluation({"test": test_md5, "validation": data}) as run_id:
        ledger.log_summary(run_id, means)
        for name in TABLES:
            ledger.log_file(run_id, output / f"{name}.csv")
        return register(ledger, run_id, submission)


def choose(histories: Mapping[str, pd.DataFrame]) -> Candidate:
    """Choose among arms by mean validation accuracy after the last epoch, and the best seed within the arm.

    `histories` has a row per seed and epoch of each arm. Diverged trials do not count, and an arm without any goes before one
    that has some; not all may have. Among equals the first wins.
    """
    finals: dict[str, dict[int, float]] = {}
    for arm, history in histories.items():
        seeds = history.groupby("seed", sort=False)
        finals[arm] = {int(str(seed)): float(trial["val_accuracy"].iloc[-1]) for seed, trial in seeds if not diverged(trial)}
    lost = {arm: histories[arm]["seed"].nunique() - len(finals[arm]) for arm in finals}
    arms = {arm: summarize(pd.Series(accuracies)) for arm, accuracies in finals.items() if accuracies}
    arm = min(arms, key=lambda arm: (lost[arm], -arms[arm].mean))
    seed = max(finals[arm], key=lambda seed: finals[arm][seed])
    return Candidate(arm, seed, finals[arm][seed], arms[arm])


def choose_form(network: keras.Sequential, images: NDArray[np.uint8]) -> tuple[keras.Sequential, str]:
    """Fold Batch Normalization away if, on uint8 images `(n, height, width, channels)`, that is exact to TOLERANCE and faster.

    Returns:
        The network that is served, and in words how it came from the trained one.
    """
    if not any(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers):
        return network, "as trained"
    try:
        folded = fold_batch_normalization(network)
    except PipelineError as error:
        return network, f"as trained ({error})"
    difference = float(np.abs(predict(folded, images) - predict(network, images)).max())
    ratio = time_ratio(folded, network, images[:TIMED_IMAGES])
    measured = (
        f"probabilities of {len(images):,} validation images differ by at most {difference:.1e}, and {min(len(images), TIMED_IMAGES):,} "
        f"images take {ratio:.2f} times as long (median of {PAIRS} alternating pairs)"
    )
    if difference <= TOLERANCE and ratio < 1:
        return folded, f"with Batch Normalization folded into the weights: {measured}"
    return network, f"as trained; with Batch Normalization folded into the weights, {measured}"


def time_ratio(one: keras.Sequential, other: keras.Sequential, images: NDArray[np.uint8]) -> float:
    """Return the median ratio of two networks' times, called as the server calls them, in turns; the first pair warms up."""

    def seconds(network: keras.Sequential) -> float:
        start = time.perf_counter()
        keras.ops.convert_to_numpy(network(images, training=False))
        return time.perf_counter() - start

    ratios = []
    for turn in range(PAIRS + 1):
        times = {id(network): seconds(network) for network in ((one, other) if turn % 2 else (other, one))}
        ratios.append(times[id(one)] / times[id(other)])
    return median(ratios[1:])
