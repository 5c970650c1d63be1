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

from checks.comparison import DRIFT, CommittedTrial, compare_trials, describe_rule, read_trials
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import sha256_of
from pipeline.images.arrays import PROCESSED
from pipeline.training.result import TrialResult
from pipeline.workers.events import Finished
from pipeline.workers.local import LocalPool
from pipeline.workers.lock import alone_with_trials
from pipeline.workers.pool import run_trials
from pipeline.workers.progress import TrialProgress


def main() -> None:
    """Pick, retrain and compare; exit 1 on drift."""
    parser = argparse.ArgumentParser(prog="python -m checks.spot_check", description=__doc__)
    parser.add_argument("--trials", type=int, default=2, metavar="K", help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the choice, as an earlier spot check printed it, to repeat that")
    arguments = parser.parse_args()
    seed = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
    histories, trials = read_trials()
    distinct = list({trial.config.model_dump_json(): trial for trial in reversed(trials)}.values())  # one that studies share counts once
    if not 1 <= arguments.trials <= len(distinct):
        raise PipelineError(
            f"--trials: should be from 1 to {len(distinct)}, the number of distinct committed trials (got {arguments.trials})"
        )
    chosen = random.Random(seed).sample(distinct, arguments.trials)  # noqa: S311 - not for secrets
    print(f"retraining {', '.join(trial.name for trial in chosen)} (SEED={seed} picks the same again)", flush=True)
    with tempfile.TemporaryDirectory(prefix="spot-check-") as folder:
        results = zip(chosen, retrain(chosen, Path(folder)), strict=True)
        trained = [(trial, result.read_history(), sha256_of(result.weights)) for trial, result in results]
    comparisons = compare_trials(trained, histories)
    print("\n".join([describe_rule(comparisons), *(comparison.summary for comparison in comparisons)]))
    if drifted := [comparison.trial.name for comparison in comparisons if comparison.verdict == DRIFT]:
        raise PipelineError(f"not as committed: {', '.join(drifted)}; `make spot-check TRIALS={arguments.trials} SEED={seed}` repeats this")


def retrain(trials: list[CommittedTrial], folder: Path) -> list[TrialResult]:
    """Train them anew on the project's data, into the folder, and return their results in the same order."""
    configs, results = {trial.name.replace("/", "-"): trial.config for trial in trials}, {}
    with (
        alone_with_trials(),
        TrialProgress({key: key for key in configs}, configs, {}) as progress,
        closing(LocalPool(len(configs), PROCESSED, folder)) as pool,
        closing(run_trials(pool, configs)) as batches,
    ):
        for event in chain.from_iterable(batches):
            progress.show(event)
            if isinstance(event, Finished):
                results[event.key] = event.result
    return [results[key] for key in configs]


if __name__ == "__main__":
    run(main)
