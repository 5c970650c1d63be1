"""DVC stage `measure`: from a study's histories to the raw measure of each of its claims, one row per trial."""

import argparse

import pandas as pd

from claims.studies.parameters import STUDIES, ClaimsParameters, load_claims
from claims.studies.tables import read_histories, read_study
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.training.result import diverged


def main() -> None:
    """Read the study's name and write reports/claims/studies/<study>/trials.csv."""
    parser = argparse.ArgumentParser(prog="python -m claims.measure", description=__doc__)
    parser.add_argument("study", help="a study of claims/params.yaml")
    study = parser.parse_args().study
    parameters = load_claims()
    if study not in parameters.studies:
        raise PipelineError(f"claims/params.yaml: studies.{study}: not declared; choose from {', '.join(parameters.studies)}")
    table = measure(parameters, study, read_histories(study), read_study(study, "weights", ["sha256"]))
    with replacing(STUDIES / study / "trials.csv") as temporary:
        table.to_csv(temporary, index=False)


def measure(parameters: ClaimsParameters, study: str, histories: pd.DataFrame, weights: pd.DataFrame) -> pd.DataFrame:
    """Give one row per trial: its labels, whether it diverged, its weights' hash and, by id, each claim's raw measure.

    Raises:
        PipelineError: the histories hold other trials than are declared, or lack what a claim measures.
    """
    labels = label_columns(parameters, study)
    trials = [trial for _, trial in histories.groupby(labels, sort=False)]
    table = pd.DataFrame([trial[labels].iloc[0] for trial in trials]).reset_index(drop=True)
    _check_declared(parameters, study, table)
    table["epochs_trained"] = [len(trial) for trial in trials]
    table["diverged"] = [diverged(trial) for trial in trials]
    table = table.merge(weights, on=labels, how="left")
    whole = whole_histories(parameters, study, histories)
    compared = table.groupby([*parameters.studies[study].grid, "seed"])  # arms are compared at the same level of the same seed
    measures = {name: claim.measure for name, claim in parameters.claims.items() if claim.study == study and claim.measure}
    for name, chosen in measures.items():
        try:
            values = [chosen.of_seed({number: whole[number] for number in together.index}) for _, together in compared]
        except KeyError as error:
            raise PipelineError(f"claims/params.yaml: claims.{name}.measure: no column {error} in the histories of {study}") from None
        table[name] = pd.Series({number: value for together in values for number, value in together.items()})
    return table


def whole_histories(parameters: ClaimsParameters, study: str, histories: pd.DataFrame) -> list[pd.DataFrame]:
    """Give each trial's history, with empty rows for the epochs that it did not come to because it diverged."""
    labels, seeds = label_columns(parameters, study), parameters.studies[study].seeds
    cells = [(arm, level) for declaring, arm, level in parameters.trials.cells() if declaring == study]
    epochs = [parameters.trials.trial_config(arm, level, seed).total_epochs for arm, level in cells for seed in seeds]
    trials = [trial for _, trial in histories.groupby(labels, sort=False)]
    return [_fill_up(trial, labels, range(1, last + 1)) for trial, last in zip(trials, epochs, strict=True)]


def _fill_up(trial: pd.DataFrame, labels: list[str], epochs: range) -> pd.DataFrame:
    whole = trial.set_index("epoch").reindex(pd.Index(epochs, name="epoch")).reset_index()
    return whole.assign(**{label: trial[label].iloc[0] for label in labels})


def label_columns(parameters: ClaimsParameters, study: str) -> list[str]:
    """Columns that tell a study's trials apart."""
    grid = [key for key in parameters.studies[study].grid if key != "batch_size"]
    return ["arm", "batch_size", *grid, "seed"]


def _check_declared(parameters: ClaimsParameters, study: str, trials: pd.DataFrame) -> None:
    declared = parameters.studies[study]
    expected = [(arm, seed) for arm in declared.arms for _ in declared.levels() for seed in declared.seeds]
    if list(trials[["arm", "seed"]].itertuples(index=False, name=None)) != expected:
        path = STUDIES / study / "history.csv"
        raise PipelineError(f"{path}: holds other trials than claims/params.yaml declares; run `dvc repro claims/dvc.yaml:study@{study}`")


if __name__ == "__main__":
    run(main)
