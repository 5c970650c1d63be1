"""DVC stage `study`: train every trial of a study of the claims, or read it back from the ledger."""

import argparse

import pandas as pd

from claims.studies.parameters import RESULTS, STUDIES, load_claims
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing, sha256_of
from pipeline.images.arrays import data_md5
from pipeline.training.environment import write_environment
from pipeline.trials.cells import with_labels
from pipeline.trials.execution import Trials, complete, forget, open_ledger, trials_after, trials_of
from pipeline.trials.key import TrialKeys
from pipeline.trials.parameters import Parameters
from pipeline.workers.lock import alone_with_trials
from pipeline.workers.work import result_of


def main() -> None:
    """Read the study's name and write reports/claims/studies/<study>/ and the environment."""
    parser = argparse.ArgumentParser(prog="python -m claims.study", description=__doc__)
    parser.add_argument("study", help="a study of claims/params.yaml")
    study = parser.parse_args().study
    for name, table in run_study(load_claims().trials, study).items():
        with replacing(STUDIES / study / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
    write_environment(RESULTS / "environment" / f"{study}.json")


def run_study(parameters: Parameters, study: str) -> dict[str, pd.DataFrame]:
    """Complete every trial of a study.

    Returns:
        `history`, one row per trial and epoch, and `weights`, one row per trial with the SHA-256 of its weights.

    Raises:
        PipelineError: the study is not declared, data is missing, the tracking store is out of reach, or a trial failed;
            finished trials are kept and not run again.
    """
    if study not in parameters.studies:
        raise PipelineError(f"claims/params.yaml: studies.{study}: not declared; choose from {', '.join(parameters.studies)}")
    keys = TrialKeys(data_md5())
    cells = [cell for cell in parameters.cells() if cell[0] == study]
    trials = {key: trial for cell in cells for key, trial in trials_of(parameters, cell, keys).items()}
    with alone_with_trials(), open_ledger(parameters.runner) as ledger:
        complete(ledger, trials, ahead=trials_after(parameters, cells[-1], keys), runner=parameters.runner)
        tables = _gather(trials)
        forget(trials)
    return tables


def _gather(trials: Trials) -> dict[str, pd.DataFrame]:
    histories = [with_labels(trial, result_of(key).read_history()) for key, trial in trials.items()]
    weights = [with_labels(trial, pd.DataFrame({"sha256": [sha256_of(result_of(key).weights)]})) for key, trial in trials.items()]
    return {"history": pd.concat(histories), "weights": pd.concat(weights)}


if __name__ == "__main__":
    run(main)
