"""Results as the stages before `report` write them, made up at realistic levels, with params.yaml beside them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from pipeline.images.cifar10 import CLASSES
from pipeline.training.metric_names import BATCH_NORM_METRICS, EPOCH_METRICS

PARAMS = Path(__file__).parent.parent / "params.yaml"
LAYERS = [
    ["Rescaling", "32 × 32 × 3", 0, 0],
    ["Flatten", "3072", 0, 0],
    ["Dense", "512", 1_573_376, 0],
    ["ReLU", "512", 0, 0],
    ["Batch normalization", "512", 1_024, 1_024],
    ["Dense", "10", 5_130, 0],
    ["Softmax", "10", 0, 0],
]
# (training, validation, recalibrated validation) accuracy at the last epoch
LEVELS = {"baseline": (0.60, 0.495, None), "batch_norm": (0.70, 0.48, 0.50)}


def write_results(root: Path, *, seeds=(0, 1, 2, 3, 4), epochs=20, levels=LEVELS, diverged=()):
    """Write everything the report reads; `diverged` names (study, cell, seed)."""
    _write_parameters(root, seeds, epochs)
    for arm in levels:
        trials = [_trial(arm, 64, seed, epochs, levels[arm], ("train", arm, seed) in diverged) for seed in seeds]
        _write_cell(root / f"results/train/{arm}", trials, seeds)
    for size in (32, 64, 128):
        level = tuple(value and value + 0.004 * (np.log2(size) - 6) for value in levels["batch_norm"])
        trials = [_trial("batch_norm", size, seed, epochs, level, ("batch_size_grid", size, seed) in diverged) for seed in seeds]
        _write_cell(root / f"results/batch_size_grid/{size}", trials, seeds)
    finished = [(arm, seed) for arm in levels for seed in seeds if ("train", arm, seed) not in diverged]
    _write_evaluation(root / "results/evaluate", finished, levels)
    _write_profile(root / "data/processed")


def _write_cell(folder, trials, seeds):
    _write_csv(folder / "history.csv", pd.concat(trials))
    (folder / "weights").mkdir()
    for seed in seeds:
        (folder / f"weights/seed-{seed}.weights.h5").write_text(f"{folder.name} {seed}")


def _write_parameters(root, seeds, epochs):
    yaml = YAML()
    params = yaml.load(PARAMS)
    params["trial"]["epochs"] = epochs
    for study in params["studies"].values():
        study["seeds"] = list(seeds)
    yaml.dump(params, root / "params.yaml")


def _trial(arm, batch_size, seed, epochs, level, diverges):
    """A history with every listed metric; accuracies that nothing below names are like those of their split."""
    random = np.random.default_rng([len(arm), batch_size, seed])
    train, validation, recalibrated = level
    epoch = np.arange(1, epochs + 1)
    progress = 1 - np.exp(-epoch / 6) if epochs > 1 else np.ones(1)
    shared = random.normal(0, 0.004)
    accuracies = {
        "accuracy": 0.28 + (train - 0.30) * progress + random.normal(0, 0.002, epochs),
        "val_accuracy": 0.30 + (validation - 0.30) * np.minimum(1, progress * 1.3) + shared + random.normal(0, 0.006, epochs),
        "train_eval_accuracy": 0.30 + (train - 0.30) * progress + shared + random.normal(0, 0.003, epochs),
    }
    if recalibrated is not None:
        accuracies["val_accuracy_recalibrated"] = 0.33 + (recalibrated - 0.33) * np.minimum(1, progress * 1.3) + shared
    trial = pd.DataFrame({"arm": arm, "batch_size": batch_size, "seed": seed, "epoch": epoch})
    for metric in [*EPOCH_METRICS, *(BATCH_NORM_METRICS if recalibrated is not None else ())]:
        like = metric.replace("loss", "accuracy")
        split = "val_accuracy" if metric.startswith("val") else "train_eval_accuracy"
        values = accuracies.get(like, accuracies[split])
        trial[metric] = 2.2 - 1.6 * values + (0.02 * epoch if metric.startswith("val") else 0) if "loss" in metric else values
    if diverges:
        trial = trial.head(min(3, epochs))
        trial.loc[trial.index[-1], "loss"] = np.nan
    return trial


def _write_evaluation(folder, finished, levels):
    random = np.random.default_rng(7)
    trials = pd.DataFrame(finished, columns=["arm", "seed"])
    trials["loss"] = [1.5 + random.normal(0, 0.01) for _ in finished]
    trials["accuracy"] = [levels[arm][1] - 0.003 + random.normal(0, 0.004) for arm, _ in finished]
    trials["expected_calibration_error"] = [0.05 + 0.04 * (arm == "batch_norm") + random.normal(0, 0.004) for arm, _ in finished]
    _write_csv(folder / "trials.csv", trials)
    scores = [
        [arm, seed, name, *(random.normal(0.35 + 0.03 * index, 0.01, 3)), 1000]
        for arm, seed in finished
        for index, name in enumerate(CLASSES)
    ]
    _write_csv(folder / "per_class.csv", pd.DataFrame(scores, columns=["arm", "seed", "class", "precision", "recall", "f1", "support"]))
    counts = [
        [arm, actual, predicted, int(random.integers(20, 300)) + 2000 * (actual == predicted)]
        for arm in levels
        for actual in CLASSES
        for predicted in CLASSES
    ]
    _write_csv(folder / "confusion_matrix.csv", pd.DataFrame(counts, columns=["arm", "actual", "predicted", "count"]))
    layers = [[arm, *layer] for arm in levels for layer in LAYERS if arm != "baseline" or layer[0] != "Batch normalization"]
    _write_csv(folder.parent / "layers.csv", pd.DataFrame(layers, columns=["arm", "layer", "output", "trained", "moving"]))
    references = [["majority_class", None, 0.1], ["softmax_regression", 1.74, 0.39]]
    _write_csv(folder / "references.csv", pd.DataFrame(references, columns=["reference", "loss", "accuracy"]))


def _write_profile(folder):
    counts = {"train": 4000, "validation": 1000, "test": 1000}
    channels = {"mean": [0.4914, 0.4822, 0.4465], "sd": [0.2470, 0.2435, 0.2616]}
    twins = {"images": 2, "with_another_label": 1}
    profile = {
        "dataset": {"name": "cifar10", "title": "CIFAR-10", "home": "https://www.cs.toronto.edu/~kriz/cifar.html", "citation": "2009"},
        "split": {"method": "last", "validation_fraction": 0.2, "seed": 0},
        "classes": {split: dict.fromkeys(CLASSES, count) for split, count in counts.items()},
        "channels": dict.fromkeys((*counts, "official_train"), channels),
        "duplicates": {split: dict.fromkeys(counts, twins) for split in counts},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.json").write_text(json.dumps(profile))


def _write_csv(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
