"""Retrain some of the committed trials, picked at random, from the real data, and compare every epoch of every metric.

Nothing is read from the ledger, and nothing is logged. Where processor, instructions and versions are those of the committed
results, histories and weights must be the same bit for bit; elsewhere, histories within a tolerance that is printed.
"""

import argparse
import random
import secrets
import tempfile
from contextlib import closing
from itertools import chain
from pathlib import Path

import pandas as pd

from checks.comparison import DRIFT, across_instruction_sets, history_tolerances
from checks.environment import read_environments
from checks.lock import CLAIMS, built_pipelines
from checks.trials import CommittedTrial, committed_claims, committed_trials, compare_trials, describe_rule
from claims.studies.parameters import load_claims
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import sha256_of
from pipeline.images.arrays import PROCESSED
from pipeline.reporting.tables import check_declared, read_committed
from pipeline.training.result import TrialResult
from pipeline.trials.parameters import load_parameters
from pipeline.workers.events import Finished
from pipeline.workers.local import LocalPool
from pipeline.workers.lock import alone_with_trials
from pipeline.workers.pool import run_trials
from pipeline.workers.progress import TrialProgress

DEFAULT_TRIALS = 2


def main() -> None:
    """Pick, retrain, compare and tell; exit 1 on drift."""
    parser = argparse.ArgumentParser(prog="python -m checks.spot_check", description=__doc__)
    parser.add_argument("--trials", type=int, default=DEFAULT_TRIALS, metavar="K", help=f"how many (default: {DEFAULT_TRIALS})")
    parser.add_argument("--seed", type=int, help="of the choice, as an earlier spot check printed it, to repeat that")
    arguments = parser.parse_args()
    seed = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
    parameters, environments = load_parameters(), read_environments()
    tables = read_committed()
    check_declared(tables, parameters)
    histories, trials = tables.histories, committed_trials(parameters, tables)
    if CLAIMS in built_pipelines():
        claims_histories, claims_trials = committed_claims(load_claims())
        histories, trials = pd.concat([histories, claims_histories], ignore_index=True), trials + claims_trials
    tolerances = history_tolerances(histories, across_instruction_sets())
    chosen = choose_trials(trials, arguments.trials, seed)
    print(f"retraining {', '.join(trial.name for trial in chosen)} (SEED={seed} picks the same again)", flush=True)
    with tempfile.TemporaryDirectory(prefix="spot-check-") as folder:
        results = zip(chosen, retrain(chosen, Path(folder)), strict=True)
        trained = [(trial, result.read_history(), sha256_of(result.weights)) for trial, result in results]
    comparisons = compare_trials(trained, histories, environments, tolerances)
    print(describe_rule(sorted({name for comparison in comparisons for name in comparison.environment})))
    for comparison in comparisons:
        print(comparison.summary)
    if drifted := [comparison.trial.name for comparison in comparisons if comparison.verdict == DRIFT]:
        raise PipelineError(f"not as committed: {', '.join(drifted)}; `make spot-check TRIALS={arguments.trials} SEED={seed}` repeats this")


def choose_trials(trials: list[CommittedTrial], count: int, seed: int) -> list[CommittedTrial]:
    """Choose distinct trials at random; one that studies share counts once.

    Raises:
        PipelineError: there are not so many.
    """
    distinct = list({trial.config.model_dump_json(): trial for trial in reversed(trials)}.values())
    if not 1 <= count <= len(distinct):
        raise PipelineError(f"--trials: should be from 1 to {len(distinct)}, the number of distinct committed trials (got {count})")
    return random.Random(seed).sample(distinct, count)  # noqa: S311 - not for secrets


def retrain(trials: list[CommittedTrial], folder: Path) -> list[TrialResult]:
    """Train them anew on the project's data, into the folder, and return their results in the same order."""
    keys = [trial.name.replace("/", "-") for trial in trials]
    configs = {key: trial.config for key, trial in zip(keys, trials, strict=True)}
    results = {}
    with (
        alone_with_trials(),
        TrialProgress({key: key for key in keys}, configs, {}) as progress,
        closing(LocalPool(len(configs), PROCESSED, folder)) as pool,
        closing(run_trials(pool, configs)) as batches,
    ):
        for event in chain.from_iterable(batches):
            progress.show(event)
            if isinstance(event, Finished):
                results[event.key] = event.result
    return [results[key] for key in keys]


if __name__ == "__main__":
    run(main)
