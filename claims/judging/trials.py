"""From a study's histories to its table of trials: the raw measure of each of its claims."""

from collections.abc import Mapping

import pandas as pd

from claims.judging.parameters import Claim
from claims.paths import CLAIMS_FILE
from claims.studies.parameters import Studies
from claims.studies.tables import label_columns, whole_histories
from pipeline.common.errors import PipelineError
from pipeline.training.result import diverged


def measure_trials(
    studies: Studies, claims: Mapping[str, Claim], study: str, histories: pd.DataFrame, weights: pd.DataFrame
) -> pd.DataFrame:
    """Return one row per trial: its labels, whether it diverged, its weights' hash and, by id, each claim's raw measure.

    Raises:
        PipelineError: The histories hold other trials than are declared, or lack what a claim measures.
    """
    labels = label_columns(studies.declared[study])
    whole = whole_histories(studies, study, histories)
    trials = [trial for _, trial in histories.groupby(labels, sort=False)]
    table = pd.DataFrame([trial[labels].iloc[0] for trial in trials]).reset_index(drop=True)
    table["epochs_trained"] = [len(trial) for trial in trials]
    table["diverged"] = [diverged(trial) for trial in trials]
    table = table.merge(weights, on=labels, how="left")
    compared = table.groupby([*studies.declared[study].grid, "seed"])  # arms are compared at the same level of the same seed
    for name, claim in claims.items():
        if claim.study != study or claim.measure is None:
            continue
        try:
            values = [claim.measure.of_seed({number: whole[number] for number in together.index}) for _, together in compared]
        except KeyError as error:
            raise PipelineError(f"{CLAIMS_FILE}: claims.{name}.measure: no column {error} in the histories of {study}") from None
        table[name] = pd.Series({number: value for together in values for number, value in together.items()})
    return table
