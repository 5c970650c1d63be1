"""Results as the stages of the claims laboratory write them, made up at realistic levels, with both params.yaml beside them."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from claims.judging.parameters import read_claims
from claims.judging.trials import measure_trials
from claims.judging.verdicts import judge_claims
from claims.probes.parameters import TimingSection
from claims.studies.parameters import read_studies
from claims.studies.tables import read_histories
from claims.studies.trials import read_trials
from pipeline.common.parameters import read_sections

ROOT = Path(__file__).parent.parent
LAYERS = (1, 2, 3)
STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 400, 625, 1250, 1875)
SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
ARMS = ("baseline", "batch_norm")


def write_claims(root: Path, *, seeds=None, epochs=20, extended=False, diverged=(), verdicts=None):
    """Write everything that the report of the claims reads.

    `seeds` replaces those of every study; `diverged` names (study, arm, seed); `verdicts` replaces fields of rows, by claim.
    """
    _write_parameters(root, seeds, epochs, extended)
    path, results = root / "claims/params.yaml", root / "reports/claims"
    studies = read_studies(path)
    sections = read_claims(studies, path)
    trials = {}
    for study in studies.declared:
        _write_history(read_trials(path), study, results / "studies", diverged)
        histories = read_histories(studies, study, results / "studies")
        weights = pd.read_csv(results / "studies" / study / "weights.csv")
        trials[study] = measure_trials(studies, sections.claims, study, histories, weights)
        _write_csv(results / "studies" / study / "trials.csv", trials[study])
    timing = _timing(read_sections(TimingSection, path).timing.blocks)
    _write_csv(results / "timing.csv", timing)
    for name, table in _mechanisms().items():
        _write_csv(results / "mechanisms" / f"{name}.csv", table)
    rows = judge_claims(sections, {**trials, "timing": timing, "mechanisms": _working_principle()})
    rows = [{**row.model_dump(), **(verdicts or {}).get(row.id, {})} for row in rows]
    _write_json(root / "reports/claims/verdicts.json", {"significance": 0.05, "claims": rows})
    layers = {
        "arm": ["baseline", "baseline", "batch_norm"],
        "layer": "Dense",
        "output": "10",
        "trained": [1_700_000, 7, 9],
        "moving": [0, 3, 9],
    }
    _write_csv(root / "reports/notebook/layers.csv", pd.DataFrame(layers))
    _write_csv(root / "reports/notebook/test_trials.csv", pd.DataFrame({"arm": "baseline", "seed": [0, 1], "accuracy": [0.49, 0.51]}))
    _write_json(
        root / "reports/notebook/data_profile.json",
        {"dataset": {"title": "CIFAR-10"}, "classes": {"train": dict.fromkeys(map(str, range(10)), 4000)}},
    )
    _write_csv(root / "claims/published.csv", pd.read_csv(ROOT / "claims/published.csv"))


def _write_parameters(root, seeds, epochs, extended):
    yaml = YAML()
    common, claims = (yaml.load(ROOT / path) for path in ("params.yaml", "claims/params.yaml"))
    common["trial"]["epochs"] = epochs
    claims["set"] = "extended" if extended else "default"
    for study in claims["studies"].values() if seeds else ():
        study["seeds"] = list(seeds)
        study.get("extended", {}).pop("seeds", None)
    (root / "claims").mkdir(parents=True, exist_ok=True)
    yaml.dump(common, root / "params.yaml")
    yaml.dump(claims, root / "claims/params.yaml")


def _write_history(parameters, study, folder, diverged):
    histories = []
    for name, arm, level in parameters.cells():
        for seed in parameters.studies[study].seeds if name == study else ():
            config = parameters.trial_config(arm, level, seed)
            history = _history(config, (study, arm, seed) in diverged)
            labels = {"arm": arm, "batch_size": config.batch_size, **level, "seed": seed}
            histories.append(pd.DataFrame([labels] * len(history)).join(history))
    table = pd.concat(histories, ignore_index=True)
    _write_csv(folder / study / "history.csv", table)
    labels = list(table.columns[: table.columns.get_loc("epoch")])
    _write_csv(folder / study / "weights.csv", table[labels].drop_duplicates(ignore_index=True).assign(sha256="0" * 64))


def _history(config, diverges):
    """Curves that rise and level off; Batch Normalization fits faster, lags in its moving averages and bears more."""
    normalized = config.normalization == "batch"
    scales = (1e5 * config.learning_rate, 1e3 * config.kernel_gain, 10 * config.dropout)
    random = np.random.default_rng([normalized, config.seed, config.batch_size, *map(int, scales)])
    shared = np.random.default_rng(config.seed).normal(0, 0.004)
    epoch = np.arange(1, config.total_epochs + 1)
    progress = 1 - np.exp(-epoch / (4 if normalized else 6))
    bearable = 0.03 if normalized else 0.003
    strain = max(0.0, math.log10(config.learning_rate / bearable))
    strain += abs(math.log10(config.kernel_gain)) * (0.1 if normalized and config.batch_norm_epsilon < 1e-4 else 0.35 - 0.15 * normalized)
    strain += (0.8 if normalized else 0.1) / config.batch_size
    health = max(0.0, 1 - 0.6 * strain)
    drop = config.dropout * (0.09 if normalized else 0.02)
    training = 0.1 + health * (0.22 + (0.32 if normalized else 0.28) * progress - drop) + shared + random.normal(0, 0.002, len(epoch))
    fitted = 0.1 + health * (0.25 + 0.16 * progress - drop + 0.02 * normalized)
    recalibrated = fitted + shared + random.normal(0, 0.004, len(epoch))
    lag = 0.08 * np.exp(-epoch / 2) + 0.04 + 0.2 / config.batch_size if normalized else np.zeros(len(epoch))
    stored = np.maximum(0.1, recalibrated - lag - random.exponential(0.008 if normalized else 0.001, len(epoch)))
    history = pd.DataFrame({"epoch": epoch})
    for name, accuracy in (("", training - 0.01), ("val_", stored), ("train_eval_", training)):
        history[f"{name}loss"], history[f"{name}accuracy"] = _loss(accuracy, name, epoch), accuracy
    _add_corrected(history, normalized, recalibrated, training, stored, config)
    if diverges:
        history = history.head(min(3, len(history)))
        history.loc[history.index[-1], ["loss", "val_loss"]] = np.nan
    return history


def _add_corrected(history, normalized, recalibrated, training, stored, config):
    nothing = np.full(len(history), np.nan)
    unbiased = stored + 0.3 * (recalibrated - stored) / config.batch_size
    by_batch = np.maximum(0.1, recalibrated - 0.01 - 0.3 / config.batch_size)
    columns = {
        "val_{}_recalibrated": recalibrated,
        "train_eval_{}_recalibrated": training,
        "val_{}_batch_statistics": by_batch,
        "val_{}_unbiased": unbiased,
    }
    for name, accuracy in columns.items():
        history[name.format("loss")] = _loss(accuracy, name, history["epoch"]) if normalized else nothing
        history[name.format("accuracy")] = accuracy if normalized else nothing
    for layer in LAYERS:
        shift = 1 / (1 - config.dropout) if layer > 1 else 1
        history[f"variance_ratio_{layer}"] = 0.98 * shift + 0.004 * config.seed if normalized else nothing


def _loss(accuracy, name, epoch):
    return 2.3 - 2.1 * accuracy + (0.008 * epoch if name.startswith("val") else 0)


def _timing(blocks):
    random = np.random.default_rng(3)
    typical = {
        "training_step": {"baseline": 6.0, "batch_norm": 7.0},
        "forward_and_backward": {"baseline": 3.0, "batch_norm": 3.7},
        "inference": {"baseline": 1.5, "batch_norm": 1.7, "batch_norm_folded": 1.5},
    }
    rows = [
        {"what": what, "arm": arm, "block": block, "milliseconds": milliseconds * random.lognormal(0, 0.03)}
        for what, arms in typical.items()
        for block in range(blocks)
        for arm, milliseconds in arms.items()
    ]
    return pd.DataFrame(rows)


def _mechanisms():
    random = np.random.default_rng(5)

    def over_steps(layers, values):
        keys = [(arm, step, layer) for arm in ARMS for step in STEPS for layer in layers]
        return pd.DataFrame([{"arm": arm, "step": step, "layer": layer, **values(arm, step)} for arm, step, layer in keys])

    drift = over_steps(
        LAYERS, lambda arm, step: {name: random.lognormal(-2 - 0.3 * (arm == ARMS[1]), 0.3) for name in ("mean_shift", "log_sd_shift")}
    )
    shift = over_steps(LAYERS[1:], lambda arm, step: {"relative_change": random.lognormal(-1, 0.3), "cosine": 1 - random.uniform(0, 0.4)})
    units = over_steps(LAYERS, lambda arm, step: dict(zip(("dead", "nearly_dead", "always_on"), random.uniform(0, 0.1, 3), strict=True)))
    landscape = [
        {"arm": arm, "step": step, "direction": direction, "distance_factor": factor, "loss": 2 - 0.0003 * step + 0.1 * factor,
         "gradient_change": 0.2 * factor * (2 - (arm == ARMS[1])), "effective_smoothness": random.lognormal(2 - (arm == ARMS[1]), 0.2)}
        for arm in ARMS for step in STEPS for direction in ("gradient", "adam") for factor in (0.5, 1.0, 2.0, 4.0)
    ]  # fmt: skip
    return {
        "drift": drift[drift["step"] > 0],
        "gradient_shift": shift,
        "landscape": pd.DataFrame(landscape),
        "units": units,
        "discrepancy": pd.DataFrame([_discrepancy(random, size, step, layer) for size in SIZES for step in (0, 1875) for layer in LAYERS]),
        "working_principle": _working_principle(),
    }


def _discrepancy(random, size, step, layer):
    theory = (size / (size - 1)) ** (layer / 2)
    measured = {"accuracy_training_mode": 0.5 - 0.3 / size, "accuracy_inference_mode": 0.5, "divergence": 1 / size}
    return {"batch_size": size, "step": step, **measured, "layer": layer, "rms_ratio": theory * random.lognormal(0, 0.02), "theory": theory}


def _working_principle():
    tested = ("normalized_mean", "normalized_sd", "output_mean", "output_sd", "keras_training_mode", "keras_inference_mode", "moving_mean",
              "moving_variance", "backward_pass", "gradient_sum")  # fmt: skip
    shown = {"normalized_sd_from_1": 0.4, "inference_mean": 0.31, "inference_sd": 0.22}
    rows = [
        {"check": check, "layer": layer, "largest_error": 2e-7 * layer, "tolerance": 1e-5, "passes": True}
        for check in tested
        for layer in LAYERS
    ]
    rows += [{"check": check, "layer": layer, "largest_error": error} for check, error in shown.items() for layer in LAYERS]
    rows += [{"check": "batch_mates", "largest_error": 0.8}]
    rows += [{"check": "folding", "largest_error": 3e-6, "tolerance": 1e-4, "passes": True}]
    return pd.DataFrame(rows).fillna({"passes": True}).astype({"passes": "str"})


def _write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_csv(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
