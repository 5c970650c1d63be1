"""DVC stage `measure`: from a study's histories to the raw measure of each of its claims, one row per trial."""

import argparse
from pathlib import Path

import pandas as pd

from claims.parameters import STUDIES, ClaimsParameters, load_claims
from pipeline.atomic import replacing
from pipeline.command import run
from pipeline.errors import PipelineError
from pipeline.tables import read_table
from pipeline.trial_result import diverged

DTYPES = {"arm": "str", "batch_size": "int64", "seed": "int64", "epoch": "int64", "sha256": "str", "diverged": "bool"}
PLAIN_IF_NOT_NORMALIZED = ("_recalibrated", "_unbiased")  # without moving averages there is nothing to correct


def main() -> None:
    """Read the study's name and write claims/results/studies/<study>/trials.csv."""
    parser = argparse.ArgumentParser(prog="python -m claims.measure", description=__doc__)
    parser.add_argument("study", help="a study of claims/params.yaml")
    study = parser.parse_args().study
    parameters = load_claims()
    if study not in parameters.studies:
        raise PipelineError(f"claims/params.yaml: studies.{study}: not declared; choose from {', '.join(parameters.studies)}")
    table = measure(parameters, study, read_histories(study), read_study(study, "weights", ["sha256"]))
    with replacing(STUDIES / study / "trials.csv") as temporary:
        table.to_csv(temporary, index=False)


def read_study(study: str, name: str, columns: list[str], folder: Path = STUDIES) -> pd.DataFrame:
    """Read a table of a study.

    Raises:
        PipelineError: it is missing, or not as its stage writes it.
    """
    stage = "measure" if name == "trials" else "study"
    remedy = f"run `dvc repro claims/dvc.yaml:{stage}@{study}` to make it"
    return read_table(folder / study / f"{name}.csv", ["arm", "batch_size", "seed", *columns], remedy, DTYPES)


def read_histories(study: str, folder: Path = STUDIES) -> pd.DataFrame:
    """Read every epoch of a study's trials; an arm without moving averages has its plain values as recalibrated ones too."""
    histories = read_study(study, "history", ["epoch", "loss", "val_loss", "val_accuracy"], folder)
    for column in [column for column in map(str, histories) if column.endswith(PLAIN_IF_NOT_NORMALIZED)]:
        plain = histories[column.rsplit("_", 1)[0]]
        measured = histories.groupby("arm")[column].transform("count") > 0
        histories[column] = histories[column].where(measured, plain)
    return histories


def measure(parameters: ClaimsParameters, study: str, histories: pd.DataFrame, weights: pd.DataFrame) -> pd.DataFrame:
    """Give one row per trial: its labels, whether it diverged, its weights' hash and, by id, each claim's raw measure.

    Raises:
        PipelineError: the histories hold other trials than are declared, or lack what a claim measures.
    """
    labels = label_columns(parameters, study)
    trials = {number: trial for number, (_, trial) in enumerate(histories.groupby(labels, sort=False))}
    table = pd.DataFrame([trial[labels].iloc[0] for trial in trials.values()]).reset_index(drop=True)
    _check_declared(parameters, study, table)
    table["epochs_trained"] = [len(trial) for trial in trials.values()]
    table["diverged"] = [diverged(trial) for trial in trials.values()]
    table = table.merge(weights, on=labels, how="left")
    measures = {name: claim.measure for name, claim in parameters.claims.items() if claim.study == study and claim.measure}
    for name, chosen in measures.items():
        try:
            values = [chosen.of_seed({number: trials[number] for number in of_seed.index}) for _, of_seed in table.groupby("seed")]
        except KeyError as error:
            raise PipelineError(f"claims/params.yaml: claims.{name}.measure: no column {error} in the histories of {study}") from None
        table[name] = pd.Series({number: value for seed in values for number, value in seed.items()})
    return table


def label_columns(parameters: ClaimsParameters, study: str) -> list[str]:
    """Columns that tell a study's trials apart."""
    grid = [key for key in parameters.studies[study].grid if key != "batch_size"]
    return ["arm", "batch_size", *grid, "seed"]


def _check_declared(parameters: ClaimsParameters, study: str, trials: pd.DataFrame) -> None:
    declared = parameters.studies[study]
    if len(trials) != declared.count_trials() or {*trials["arm"]} != {*declared.arms} or {*trials["seed"]} != {*declared.seeds}:
        path = STUDIES / study / "history.csv"
        raise PipelineError(f"{path}: holds other trials than claims/params.yaml declares; run `dvc repro claims/dvc.yaml:study@{study}`")


if __name__ == "__main__":
    run(main)
