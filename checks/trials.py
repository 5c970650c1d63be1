"""The committed trials, and how trainings of the same compare with them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from checks.comparison import (
    DRIFT,
    IDENTICAL,
    TRIAL,
    WITHIN,
    compare_histories,
    unlike_environment,
)
from claims.measure import label_columns
from claims.studies.parameters import STUDIES, ClaimsParameters
from claims.studies.tables import read_study
from pipeline.common.errors import PipelineError
from pipeline.reporting.tables import WEIGHTS_COLUMNS, Tables
from pipeline.training.config import TrialConfig
from pipeline.trials.notebook import TRAIN
from pipeline.trials.parameters import Parameters

CLAIMS = "claims/"
TABLES = {"weights": ["sha256"], "history": ["epoch", "loss"]}


@dataclass(frozen=True)
class CommittedTrial:
    """A row of reports/notebook/weights.csv, or a claim's trial, and what it was trained with.

    The study of a claim's trial begins with `claims/`, and its `arm` names the level too.
    """

    study: str
    arm: str
    batch_size: int
    seed: int
    sha256: str
    config: TrialConfig

    @property
    def name(self) -> str:
        """Readable, and unique among the committed trials."""
        return f"{self.study}/{self.arm}-b{self.batch_size}-s{self.seed}"

    @property
    def stage_output(self) -> str:
        """The output that it belongs to, as reports/notebook/environment.json names it."""
        if self.study.startswith(CLAIMS):
            return self.study
        return f"{self.study}/{self.arm if self.study == TRAIN else self.batch_size}"

    @property
    def labels(self) -> dict[str, str | int]:
        """What each row of its history begins with."""
        return {name: getattr(self, name) for name in TRIAL}


def committed_trials(parameters: Parameters, tables: Tables) -> list[CommittedTrial]:
    """Every trial of the committed results; one that studies share is listed for each.

    Raises:
        PipelineError: an arm is not declared in params.yaml.
    """
    trials = []
    for row in tables.weights.to_dict("records"):
        if row["arm"] not in parameters.arms:
            raise PipelineError(f"reports/notebook/weights.csv: params.yaml declares no arm '{row['arm']}'; run `make repro`")
        level = {} if row["study"] == TRAIN else {"batch_size": row["batch_size"]}
        config = parameters.trial_config(row["arm"], level, row["seed"])
        trials.append(CommittedTrial(**{name: row[name] for name in WEIGHTS_COLUMNS}, config=config))
    return trials


def committed_claims(claims: ClaimsParameters, root: Path = Path()) -> tuple[pd.DataFrame, list[CommittedTrial]]:
    """Give every epoch and every trial of the claims' committed studies, as they are compared.

    Raises:
        PipelineError: a table is missing, or holds other trials than are declared.
    """
    histories, trials = [], []
    for study, declared in claims.studies.items():
        labels = label_columns(claims, study)
        weights, history = (read_study(study, name, columns, root / STUDIES) for name, columns in TABLES.items())
        of_trials = [trial.drop(columns=labels) for _, trial in history.groupby(labels, sort=False)]
        expected = [(arm, level, seed) for arm in declared.arms for level in declared.levels() for seed in declared.seeds]
        found = list(weights[["arm", "seed"]].itertuples(index=False, name=None))
        if found != [(arm, seed) for arm, _, seed in expected] or len(of_trials) != len(expected):
            raise PipelineError(f"{STUDIES / study}: holds other trials than claims/params.yaml declares; run `make claims`")
        for (arm, level, seed), sha256, trial in zip(expected, weights["sha256"], of_trials, strict=True):
            name = "-".join([arm, *(f"{key}={value}" for key, value in level.items() if key != "batch_size")])
            config = claims.trials.trial_config(arm, level, seed)
            trials.append(CommittedTrial(f"{CLAIMS}{study}", name, config.batch_size, seed, sha256, config))
            histories.append(trial.assign(**trials[-1].labels))
    return pd.concat(histories, ignore_index=True), trials


@dataclass(frozen=True)
class Comparison:
    """A committed trial beside a training of the same: `values` is what `compare_histories` gives.

    `environment` lists what was different when it was trained anew; if nothing was, the weights must be the same too.
    """

    trial: CommittedTrial
    values: pd.DataFrame
    same_weights: bool
    environment: list[str]

    @property
    def verdict(self) -> str:
        """The worst of all values' verdicts; other weights in the same environment are a drift."""
        verdicts = set(self.values["verdict"])
        if DRIFT in verdicts or (not self.environment and not self.same_weights):
            return DRIFT
        return IDENTICAL if verdicts == {IDENTICAL} and self.same_weights else WITHIN

    @property
    def first_drift(self) -> str:
        """The earliest value that drifted, in words; empty if none did."""
        drifted = self.values[self.values["verdict"] == DRIFT].sort_values("epoch")
        if drifted.empty:
            return "the weights are others" if self.verdict == DRIFT else ""
        row = drifted.iloc[0]
        allowed = f", tolerance {row['tolerance']:.3g}" if self.environment else ""
        return f"epoch {row['epoch']}, {row['metric']}: committed {row['committed']}, rebuilt {row['rebuilt']}{allowed}"

    @property
    def summary(self) -> str:
        """One line: the verdict, what was compared, and the first drift."""
        identical = int((self.values["verdict"] == IDENTICAL).sum())
        largest = self.values["difference"].abs().max()
        counted = f"{identical} of {len(self.values)} values identical, largest difference {largest:.3g}"
        weights = "weights identical" if self.same_weights else "weights differ"
        return f"{self.trial.name}: {self.verdict} ({counted}, {weights}){': ' if self.first_drift else ''}{self.first_drift}"


def compare_trials(
    trained: Iterable[tuple[CommittedTrial, pd.DataFrame, str]],
    histories: pd.DataFrame,
    environments: Mapping[str, Mapping[str, str]],
    tolerances: pd.DataFrame,
) -> list[Comparison]:
    """Compare each training's history (one row per epoch) and the SHA-256 of its weights with the committed ones.

    `histories` holds every epoch of the committed trials, `environments` says in which environment each stage's output was
    made (of `read_environments`), `tolerances` how far values may be off in another (of `history_tolerances`).
    """
    comparisons = []
    for trial, history, sha256 in trained:
        environment = unlike_environment(environments.get(trial.stage_output, {}))
        values = compare_histories(histories, history.assign(**trial.labels), tolerances if environment else None)
        comparisons.append(Comparison(trial, values, sha256 == trial.sha256, environment))
    return comparisons


def describe_rule(environment: list[str]) -> str:
    """Say how values are compared, and why so."""
    if not environment:
        return "Processor, instructions and versions are those of the committed results: every value must be the same, bit for bit."
    return (
        f"Made in another environment than the committed results ({'; '.join(environment)}): a value may differ by 5·√2 standard "
        "deviations between seeds at that epoch, or by the largest difference measured between instruction sets, whichever is more."
    )
