"""DVC stage `mechanisms`: what happens inside the networks with and without Batch Normalization while they train."""

import argparse
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pandas as pd

from claims.probes.columns import MECHANISM_COLUMNS
from claims.studies.parameters import CLAIMS_FILE, EXACT, RESULTS, ClaimsParameters, Mechanisms, load_claims
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.images.arrays import PROCESSED, load_examples
from pipeline.training.config import TrialConfig
from pipeline.training.environment import write_environment
from pipeline.trials.notebook import BASELINE, BATCH_NORM
from pipeline.workers.local import call_in_worker, worker_count
from pipeline.workers.lock import alone_with_trials

ARMS = (BASELINE, BATCH_NORM)
OUTPUT = RESULTS / EXACT
SIGNIFICANT_DIGITS = 6

Rows = dict[str, list[dict[str, Any]]]  # by table


def main() -> None:
    """Train both arms once more, side by side, and write reports/claims/mechanisms/, a table for each probe, and the environment."""
    argparse.ArgumentParser(prog="python -m claims.mechanisms", description=__doc__).parse_args()
    parameters = load_claims()
    with alone_with_trials():
        tables = probe_arms(parameters)
    with replacing(OUTPUT) as temporary:
        temporary.mkdir()
        for name, table in tables.items():
            table.to_csv(temporary / f"{name}.csv", index=False, float_format=f"%.{SIGNIFICANT_DIGITS}g")
    write_environment(RESULTS / "environment" / f"{EXACT}.json")


def probe_arms(parameters: ClaimsParameters, processed: Path = PROCESSED) -> dict[str, pd.DataFrame]:
    """Train each arm in a worker process of its own, with one thread, and give the tables of both by name.

    Raises:
        PipelineError: data is missing, or there are fewer images than the largest batch size.
    """
    _check_enough_images(parameters.mechanisms, processed)
    changes = {"epochs": parameters.mechanisms.epochs}
    configs = {arm: parameters.trials.trial_config(arm, changes, parameters.mechanisms.seed) for arm in ARMS}
    # Its threads are daemons, unlike those of concurrent.futures: Ctrl-C does not wait for the workers.
    with ThreadPool(min(len(ARMS), worker_count())) as threads:
        calls = [(_probe, arm, config, parameters.mechanisms, processed.resolve()) for arm, config in configs.items()]
        of_arms: list[Rows] = threads.starmap(call_in_worker, calls, chunksize=1)
    rows = {name: [row for rows in of_arms for row in rows.get(name, [])] for name in MECHANISM_COLUMNS}
    return {name: pd.DataFrame(rows[name], columns=columns) for name, columns in MECHANISM_COLUMNS.items()}


def _check_enough_images(mechanisms: Mechanisms, processed: Path) -> None:
    images, largest, there = mechanisms.images, max(mechanisms.batch_sizes), len(load_examples("validation", processed).labels)
    if images > there:
        raise PipelineError(f"{CLAIMS_FILE}: mechanisms.images: {images:,} asked for, and the validation set has {there:,}; ask for fewer")
    if largest > images:
        raise PipelineError(f"{CLAIMS_FILE}: mechanisms.batch_sizes: {largest:,} is more than mechanisms.images, {images:,}; lower it")


def _probe(arm: str, config: TrialConfig, mechanisms: Mechanisms, processed: Path) -> Rows:
    from claims.probes.probed_training import probe_arm  # here, not above: --help needs no TensorFlow

    return probe_arm(arm, config, mechanisms, load_examples("train", processed), load_examples("validation", processed))


if __name__ == "__main__":
    run(main)
