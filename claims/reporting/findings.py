"""What the report of the claims draws on: everything under reports/claims, read and checked."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from claims.measure import label_columns
from claims.probes.columns import MECHANISM_COLUMNS
from claims.studies.parameters import RESULTS, STUDIES, ClaimsParameters
from claims.studies.tables import DTYPES, read_histories, read_mechanism, read_study, read_timing, remedy
from pipeline.common.errors import PipelineError
from pipeline.common.parameters import explain
from pipeline.common.tables import read_json, read_table
from pipeline.pages.generated import REPORTS

VERDICTS = RESULTS / "verdicts.json"
PUBLISHED = Path("claims/published.csv")
PUBLISHED_COLUMNS = ["source", "url", "network", "epochs", "metric", "accuracy"]


class Verdict(BaseModel):
    """A row of the ledger of verdicts, in the units that claims/verdicts.py writes; what does not exist is None."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    id: str
    says: str
    kind: Literal["exact", "timed", "tested", "explored"]
    study: str
    metric: str
    unit: Literal["accuracy", "log_ratio", "nats", "decades", "exact"]
    null_effect: float | None
    smallest_effect: float | None
    orientation: str | None
    n: int | None
    excluded: list[int] | None
    differences: dict[str, float] | None
    mean: float | None
    sd: float | None
    low_95: float | None
    high_95: float | None
    d_z: float | None
    p_above: float | None
    p_above_holm: float | None
    p_below: float | None
    p_below_holm: float | None
    p_reversed_holm: float | None
    power: float | None
    detectable: float | None
    power_note: str | None
    premise: dict[str, float] | None
    verdict: str | None
    direction: str | None
    literature: str
    citation: str

    @property
    def null(self) -> float:
        """The effect up to which the claim does not hold."""
        return self.null_effect or 0.0

    @property
    def has_margin(self) -> bool:
        """Whether the claim is one of “not worse”: it holds from a null effect below 0 on, and nothing more is asked."""
        return self.smallest_effect is not None and self.smallest_effect == self.null < 0

    @property
    def effect(self) -> dict[str, float]:
        """Mean, n and, where they exist, sd and the interval's bounds, as pipeline.pages.wording takes them; {} without any effect."""
        found = {name: getattr(self, name) for name in ("mean", "sd", "low_95", "high_95")}
        return {"n": self.n or 0, **{name: value for name, value in found.items() if value is not None}} if self.mean is not None else {}


class _Ledger(BaseModel):
    significance: float
    claims: list[Verdict]


@dataclass(frozen=True)
class Findings:
    """Everything that was measured, and what was judged of it.

    `ledger` holds verdicts by claim; `histories` and `trials` the tables of each study, where a trial that diverged has
    True in the column `diverged`; `mechanisms` the tables of the probes by name; `tested` the main pipeline's trials on the
    test set; `training_images` how many there are.
    """

    parameters: ClaimsParameters
    ledger: dict[str, Verdict]
    histories: dict[str, pd.DataFrame]
    trials: dict[str, pd.DataFrame]
    timing: pd.DataFrame
    mechanisms: dict[str, pd.DataFrame]
    published: pd.DataFrame
    tested: pd.DataFrame
    training_images: int


def read_findings(parameters: ClaimsParameters) -> Findings:
    """Read what the stages before the report wrote.

    Raises:
        PipelineError: a file is missing, not as its stage writes it, or of other claims or trials than are declared.
    """
    trials = {study: read_study(study, "trials", ["epochs_trained", "diverged"]) for study in parameters.studies}
    return Findings(
        parameters=parameters,
        ledger=read_ledger(parameters),
        histories={study: _read_history(parameters, study, trials[study]) for study in parameters.studies},
        trials=trials,
        timing=read_timing(),
        mechanisms={name: read_mechanism(name) for name in MECHANISM_COLUMNS},
        published=read_table(PUBLISHED, PUBLISHED_COLUMNS, "take it back from git", DTYPES),
        tested=read_table(REPORTS / "test_trials.csv", ["arm", "seed", "accuracy"], "run `dvc repro report` to make it"),
        training_images=sum(read_json(REPORTS / "data_profile.json", "report")["classes"]["train"].values()),
    )


def read_ledger(parameters: ClaimsParameters) -> dict[str, Verdict]:
    """Read the verdicts, by claim.

    Raises:
        PipelineError: they are missing, not as their stage writes them, or of other claims than are declared.
    """
    try:
        content = json.loads(VERDICTS.read_text(encoding="utf-8"))
        ledger = {verdict.id: verdict for verdict in _Ledger.model_validate(content).claims}
    except FileNotFoundError:
        raise PipelineError(f"{VERDICTS}: not found; {remedy('verdicts')}") from None
    except ValidationError as error:
        raise PipelineError(f"{explain(error, f'{VERDICTS}: ')}; {remedy('verdicts')}") from None
    except ValueError:
        raise PipelineError(f"{VERDICTS}: not valid JSON; {remedy('verdicts')}") from None
    declared = {name: (claim.says, claim.metric, claim.smallest_effect) for name, claim in parameters.claims.items()}
    if declared != {name: (verdict.says, verdict.metric, verdict.smallest_effect) for name, verdict in ledger.items()}:
        raise PipelineError(f"{VERDICTS}: of other claims than claims/params.yaml declares; run `make verdicts`")
    return ledger


def _read_history(parameters: ClaimsParameters, study: str, trials: pd.DataFrame) -> pd.DataFrame:
    labels = label_columns(parameters, study)
    for name, table in (("trials", trials), ("history", history := read_histories(study))):
        if missing := [label for label in labels if label not in table]:
            raise PipelineError(f"{STUDIES / study / f'{name}.csv'}: has no column {', '.join(missing)}; {remedy(f'study@{study}')}")
    marked = history.merge(trials[[*labels, "diverged"]], on=labels, how="left")
    if marked["diverged"].isna().any():
        raise PipelineError(f"{STUDIES / study / 'trials.csv'}: lacks trials of the history beside it; {remedy(f'measure@{study}')}")
    return marked.astype({"diverged": bool})
