"""The committed trials, and how new trainings of the same trials compare with them.

Where processor, instructions and versions are the same, every bit must be. Elsewhere a value may differ by what chance explains.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from checks.environment import CLAIMS, read_environments
from checks.lock import CLAIMS_PIPELINE, built_pipelines
from claims.paths import CLAIMS_FILE, STUDIES
from claims.studies.tables import read_study
from claims.studies.trials import read_trials as read_claims_trials
from pipeline.common.errors import PipelineError
from pipeline.common.parameters import PARAMETERS_FILE
from pipeline.pages.generated import REPORTS
from pipeline.reporting.tables import has_diverged, read_committed
from pipeline.training.config import TrialConfig
from pipeline.training.environment import result_environment
from pipeline.trials.notebook import TRAIN
from pipeline.trials.parameters import load_parameters

TRIAL = ["study", "arm", "batch_size", "seed"]
EPOCH = [*TRIAL, "epoch"]
CELL_EPOCH = ["study", "arm", "batch_size", "epoch", "metric"]
IDENTICAL, WITHIN, DRIFT = "identical", "within tolerance", "drift"

# Two trainings that differ in rounding alone drift apart until they are as far from each other as two seeds: the difference
# of two draws has √2 times the spread of one, and five of those are exceeded once in two million comparisons.
SPREADS = 5 * math.sqrt(2)
EPOCHS_POOLED = 5  # a spread of few seeds is itself uncertain; neighbouring epochs steady it
BENCHMARK = Path(__file__).resolve().parent.parent / "benchmarks/results.json"


@dataclass(frozen=True)
class CommittedTrial:
    """A trial of the committed results. The study of a claim's trial begins with `claims/`, and its `arm` names the level too."""

    study: str
    arm: str
    batch_size: int
    seed: int
    sha256: str  # of its weights
    config: TrialConfig

    @property
    def name(self) -> str:
        """Readable, and unique among the committed trials."""
        return f"{self.study}/{self.arm}-b{self.batch_size}-s{self.seed}"

    @property
    def labels(self) -> dict[str, str | int]:
        """What each row of its history begins with."""
        return {name: getattr(self, name) for name in TRIAL}

    @property
    def made(self) -> str:
        """The stage output that it belongs to, as `read_environments` names it."""
        return self.study if self.study.startswith(CLAIMS) else f"{self.study}/{self.arm if self.study == TRAIN else self.batch_size}"


def read_trials(root: Path = Path()) -> tuple[pd.DataFrame, list[CommittedTrial]]:
    """Read every epoch of every committed trial, those of the claims included, and the trials. One that studies share is there for each.

    Raises:
        PipelineError: A table is missing, or holds other trials than are declared.
    """
    parameters = load_parameters(root / PARAMETERS_FILE)
    tables = read_committed(parameters, root / REPORTS)
    histories, trials = [tables.histories], []
    for study, arm, batch_size, seed, sha256 in tables.weights[[*TRIAL, "sha256"]].itertuples(index=False, name=None):
        level = {} if study == TRAIN else {"batch_size": batch_size}
        trials.append(CommittedTrial(study, arm, batch_size, seed, sha256, parameters.trial_config(arm, level, seed)))
    if CLAIMS_PIPELINE not in built_pipelines(root):
        return tables.histories, trials
    claims = read_claims_trials(root / CLAIMS_FILE)
    for study, declared in claims.studies.items():
        weights = read_study(study, "weights", ["sha256"], root / STUDIES)
        history = read_study(study, "history", ["epoch", "loss"], root / STUDIES)
        labels = list(history)[: list(history).index("epoch")]
        of_trials = [trial.drop(columns=labels) for _, trial in history.groupby(labels, sort=False)]
        expected = [(arm, level, seed) for arm in declared.arms for level in declared.levels() for seed in declared.seeds]
        found = list(weights[["arm", "seed"]].itertuples(index=False, name=None))
        if found != [(arm, seed) for arm, _, seed in expected] or len(of_trials) != len(expected):
            raise PipelineError(f"{STUDIES / study}: holds other trials than claims/params.yaml declares; run `make claims`")
        for (arm, level, seed), sha256, trial in zip(expected, weights["sha256"], of_trials, strict=True):
            name = "-".join([arm, *(f"{key}={value}" for key, value in level.items() if key != "batch_size")])
            config = claims.trial_config(arm, level, seed)
            trials.append(CommittedTrial(f"{CLAIMS}{study}", name, config.batch_size, seed, sha256, config))
            histories.append(trial.assign(**trials[-1].labels))
    return pd.concat(histories, ignore_index=True), trials


class Comparison(NamedTuple):
    """What came of comparing a committed trial with a training of the same. `environment` lists what was different there."""

    trial: CommittedTrial
    environment: list[str]
    verdict: str
    first_drift: str  # in words; empty if nothing drifted
    summary: str


def compare_trials(
    trained: list[tuple[CommittedTrial, pd.DataFrame, str]], histories: pd.DataFrame, root: Path = Path()
) -> list[Comparison]:
    """Compare the history of each new training, one row per epoch, and the SHA-256 of its weights with the committed ones in `root`.

    `histories` holds every epoch of the committed trials.
    """
    environments, tolerances, comparisons = read_environments(root), history_tolerances(histories, across_instruction_sets()), []
    for trial, history, sha256 in trained:
        environment, same_weights = unlike_environment(environments.get(trial.made, {})), sha256 == trial.sha256
        values = compare_histories(histories, history.assign(**trial.labels), tolerances if environment else None)
        drifted, identical, first_drift = values[values["verdict"] == DRIFT], values["verdict"] == IDENTICAL, ""
        verdict = IDENTICAL if identical.all() and same_weights else WITHIN
        if not drifted.empty or not (environment or same_weights):
            verdict, first_drift = DRIFT, "the weights are others"
        if not drifted.empty:
            row = drifted.sort_values("epoch").iloc[0]
            allowed = f", tolerance {row['tolerance']:.3g}" if environment else ""
            first_drift = f"epoch {row['epoch']}, {row['metric']}: committed {row['committed']}, rebuilt {row['rebuilt']}{allowed}"
        counted = f"{identical.sum()} of {len(values)} values identical, largest difference {values['difference'].abs().max():.3g}"
        weights = "weights identical" if same_weights else "weights differ"
        summary = f"{trial.name}: {verdict} ({counted}, {weights}){': ' if first_drift else ''}{first_drift}"
        comparisons.append(Comparison(trial, environment, verdict, first_drift, summary))
    return comparisons


def describe_rule(comparisons: list[Comparison]) -> str:
    """Return in words how values are compared, and why so."""
    environment = sorted({name for comparison in comparisons for name in comparison.environment})
    if not environment:
        return "Processor, instructions and versions are those of the committed results: every value must be the same, bit for bit."
    return (
        f"Made in another environment than the committed results ({'; '.join(environment)}): a value may differ by 5·√2 standard "
        "deviations between seeds at that epoch, or by the largest difference measured between instruction sets, whichever is more."
    )


def unlike_environment(committed: Mapping[str, str]) -> list[str]:
    """List what differs here from the environment of a committed result. If nothing does, the same bits must come out."""
    here = result_environment()
    names = sorted(here.keys() | committed.keys())
    return [f"{name}: {committed.get(name, '-')} → {here.get(name, '-')}" for name in names if here.get(name) != committed.get(name)]


def judge(committed: float, rebuilt: float, tolerance: float) -> str:
    """Return how two values of one number compare. Two NaNs are identical."""
    if committed == rebuilt or (math.isnan(committed) and math.isnan(rebuilt)):
        return IDENTICAL
    return WITHIN if abs(committed - rebuilt) <= tolerance else DRIFT


def compare_histories(committed: pd.DataFrame, rebuilt: pd.DataFrame, tolerances: pd.DataFrame | None) -> pd.DataFrame:
    """Compare every metric of every epoch of the trials in `rebuilt`. An epoch or metric that only one side has is a drift.

    Without `tolerances` (of `history_tolerances`), only identical values pass.

    Returns:
        One row per trial, epoch and metric, with both values, their difference, the tolerance and the verdict.
    """
    chosen = committed.merge(rebuilt[TRIAL].drop_duplicates())
    ours, theirs = _long(chosen).rename(columns={"value": "committed"}), _long(rebuilt).rename(columns={"value": "rebuilt"})
    both = ours.merge(theirs, on=[*EPOCH, "metric"], how="outer", indicator=True)
    both = both.merge(tolerances, on=CELL_EPOCH, how="left") if tolerances is not None else both.assign(tolerance=0.0)
    both["tolerance"] = both["tolerance"].fillna(0.0)
    both["difference"] = both["rebuilt"] - both["committed"]
    both["verdict"] = list(map(judge, both["committed"], both["rebuilt"], both["tolerance"]))
    both.loc[both["_merge"] != "both", "verdict"] = DRIFT
    return both.drop(columns="_merge")


def history_tolerances(histories: pd.DataFrame, across_instruction_sets: Mapping[str, float]) -> pd.DataFrame:
    """Return how far apart two trainings of one trial may be where the bits differ, by study, arm, batch size, epoch and metric.

    It is the larger of 5·√2 standard deviations between seeds (pooled over five neighbouring epochs) and the largest
    difference that was measured between instruction sets. Diverged trials do not count.
    """
    table = _long(histories[~has_diverged(histories)]).groupby(CELL_EPOCH)["value"].var().rename("variance").reset_index()
    cells = table.groupby([name for name in CELL_EPOCH if name != "epoch"])["variance"]
    pooled = cells.transform(lambda variances: variances.rolling(EPOCHS_POOLED, center=True, min_periods=1).mean())
    measured = table["metric"].map(across_instruction_sets).fillna(0.0)
    return table.drop(columns="variance").assign(tolerance=np.fmax(SPREADS * np.sqrt(pooled), measured))


def across_instruction_sets() -> dict[str, float]:
    """Return the largest difference of each metric that `python -m benchmarks instruction_sets` measured."""
    try:
        return dict(json.loads(BENCHMARK.read_text(encoding="utf-8"))["instruction_sets"]["largest_difference"])
    except (OSError, ValueError, TypeError, KeyError):
        raise PipelineError(f"benchmarks/{BENCHMARK.name}: holds no differences between instruction sets; take it back from git") from None


def _long(histories: pd.DataFrame) -> pd.DataFrame:
    """Return one row per trial, epoch and metric. Metrics that a whole trial lacks are left out."""
    rows = histories.melt(EPOCH, var_name="metric")
    return rows[rows.groupby([*TRIAL, "metric"])["value"].transform("count") > 0]
