"""The trials of the studies: their configurations, and training them."""

from pathlib import Path
from typing import Any

import pandas as pd

from claims.paths import CLAIMS_FILE
from claims.studies.parameters import check_declared, read_studies
from pipeline.common.files import sha256_of
from pipeline.common.parameters import PARAMETERS_FILE, Sections, read_sections
from pipeline.images.arrays import data_md5
from pipeline.training.config import TrainingConfig
from pipeline.trials.cells import with_labels
from pipeline.trials.execution import complete, forget, open_ledger, trials_after, trials_of
from pipeline.trials.key import TrialKeys
from pipeline.trials.parameters import Parameters, RunnerName, check_studies
from pipeline.workers.lock import alone_with_trials
from pipeline.workers.work import result_of


class _TrainingSections(Sections):
    runner: RunnerName
    trial: TrainingConfig
    arms: dict[str, dict[str, Any]]


def read_trials(path: Path = CLAIMS_FILE) -> Parameters:
    """Read the claims' studies with all arms, and check every arm and level.

    Raises:
        PipelineError: A file is missing, is not YAML, repeats a key, or holds what no trial can be described by.
    """
    studies, common = read_studies(path), read_sections(_TrainingSections, path.parent.parent / PARAMETERS_FILE)
    parameters = Parameters(runner=common.runner, trial=common.trial, arms=studies.arms, studies=studies.declared)
    check_studies(parameters, path)
    return parameters


def run_study(study: str) -> dict[str, pd.DataFrame]:
    """Train every trial of a study that MLflow does not have, and read back the others.

    Returns:
        `history`, one row per trial and epoch, and `weights`, one row per trial with the SHA-256 of its weights.

    Raises:
        PipelineError: The study is not declared, data is missing, the tracking store is out of reach, or a trial failed.
            Finished trials are kept and not run again.
    """
    check_declared(read_studies(), study)
    parameters, keys = read_trials(), TrialKeys(data_md5())
    cells = [cell for cell in parameters.cells() if cell[0] == study]
    trials = {key: trial for cell in cells for key, trial in trials_of(parameters, cell, keys).items()}
    with alone_with_trials(), open_ledger(parameters.runner) as ledger:
        complete(ledger, trials, ahead=trials_after(parameters, cells[-1], keys), runner=parameters.runner)
        histories = [with_labels(trial, result_of(key).read_history()) for key, trial in trials.items()]
        weights = [with_labels(trial, pd.DataFrame({"sha256": [sha256_of(result_of(key).weights)]})) for key, trial in trials.items()]
        forget(trials)
    return {"history": pd.concat(histories), "weights": pd.concat(weights)}
