"""DVC stage `evaluate`: the test set, once, for the last epoch of every trial of `train`, with references for scale.

The trial that does best on validation goes to MLflow's registry of models.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.evaluation.measures import evaluate, evaluate_references
from pipeline.images.arrays import load_examples
from pipeline.training.environment import write_environment
from pipeline.training.result import diverged
from pipeline.trials.notebook import TRAIN
from pipeline.trials.parameters import load_parameters

TRAIN_RESULTS = Path("results/train")
OUTPUT = Path("results/evaluate")
LAYERS = Path("results/layers.csv")
ENVIRONMENT = Path("results/environment/evaluate.json")
EXAMPLE_REQUEST = "example_request.json"  # the first test image, as the server wants it


def main() -> None:
    """Write results/evaluate (tables, predictions, a request), the networks' layers and the environment, and submit the best trial."""
    argparse.ArgumentParser(prog="python -m pipeline.evaluate", description=__doc__).parse_args()
    parameters = load_parameters()
    study, test = parameters.studies[TRAIN], load_examples("test")
    histories, trials = {}, {}  # by arm; configuration and weights of those that did not diverge, by arm and seed
    for arm in study.arms:
        path = TRAIN_RESULTS / arm / "history.csv"
        history = pd.read_csv(path)
        histories[arm] = history[history["seed"].isin(study.seeds)]
        for seed in study.seeds:
            weights = TRAIN_RESULTS / arm / "weights" / f"seed-{seed}.weights.h5"
            if (trial := history[history["seed"] == seed]).empty:
                raise PipelineError(f"{path}: has no seed {seed}; run `dvc repro train` first")
            if not weights.exists():
                raise PipelineError(f"{weights}: not found; run `dvc repro train` first")
            if not diverged(trial):
                trials[arm, seed] = parameters.trial_config(arm, {}, seed), weights
    if not trials:
        raise PipelineError("results/train: every trial diverged; lower trial.learning_rate in params.yaml")
    from pipeline.evaluation.networks import list_layers, predict_trials  # here, since --help and bad input need no TensorFlow
    from pipeline.serving.submission import submit

    with ThreadPoolExecutor(1) as beside:  # the references take as long as all predictions, and another core
        references = beside.submit(evaluate_references, load_examples("train"), load_examples("validation"), test)
        predictions = predict_trials(trials, test)
        tables = {**evaluate(predictions, test.labels, test.classes), "references": references.result()}
        layers = list_layers({arm: parameters.trial_config(arm, {}, study.seeds[0]) for arm in study.arms}, test)
    with replacing(OUTPUT) as temporary:
        temporary.mkdir()
        for name, table in tables.items():
            (temporary / f"{name}.csv").write_text(table.to_csv(index=False), encoding="utf-8")
        for (arm, seed), probabilities in predictions.items():
            path = temporary / "predictions" / arm / f"seed-{seed}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, probabilities)
        (temporary / EXAMPLE_REQUEST).write_text(json.dumps({"inputs": test.images[:1].tolist()}), encoding="utf-8")
    with replacing(LAYERS) as temporary:
        temporary.write_text(layers.to_csv(index=False), encoding="utf-8")
    write_environment(ENVIRONMENT)
    print(submit(histories, trials, OUTPUT))


if __name__ == "__main__":
    run(main)
