"""What the report of the claims draws on: everything under claims/results, read and checked."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from claims.measure import label_columns, read_histories, read_study
from claims.parameters import RESULTS, STUDIES, ClaimsParameters
from pipeline.errors import PipelineError
from pipeline.parameters import explain
from pipeline.tables import REPORTS, read_profile, read_table

VERDICTS = RESULTS / "verdicts.json"
PUBLISHED = Path("claims/published.csv")
PUBLISHED_COLUMNS = ["source", "url", "network", "epochs", "metric", "accuracy"]
TIMING_COLUMNS = ["what", "arm", "block", "milliseconds"]
MECHANISM_COLUMNS = {
    "drift": ["arm", "step", "layer", "mean_shift", "log_sd_shift"],
    "gradient_shift": ["arm", "step", "layer", "relative_change", "cosine"],
    "landscape": ["arm", "step", "direction", "distance_factor", "loss", "gradient_change", "effective_smoothness"],
    "units": ["arm", "step", "layer", "dead", "nearly_dead", "always_on"],
    "discrepancy": [
        "batch_size", "step", "accuracy_training_mode", "accuracy_inference_mode", "divergence", "layer", "rms_ratio", "theory",
    ],
    "working_principle": ["check", "layer", "largest_error", "tolerance", "passes"],
}  # fmt: skip
TEXT = ("what", "arm", "direction", "check", "passes", "source", "url", "network", "metric")
WHOLE_NUMBERS = ("block", "step", "batch_size")
DTYPES = defaultdict(lambda: "float64", dict.fromkeys(TEXT, "str") | dict.fromkeys(WHOLE_NUMBERS, "int64"))


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
    power: float | None
    detectable: float | None
    verdict: str | None
    literature: str
    citation: str

    @property
    def null(self) -> float:
        """The effect up to which the claim does not hold."""
        return self.null_effect or 0.0

    @property
    def effect(self) -> dict[str, float]:
        """Mean, n and, where they exist, sd and the interval's bounds, as pipeline.wording takes them; {} without any effect."""
        found = {name: getattr(self, name) for name in ("mean", "sd", "low_95", "high_95")}
        return {"n": self.n or 0, **{name: value for name, value in found.items() if value is not None}} if self.mean is not None else {}


class _Ledger(BaseModel):
    significance: float
    claims: list[Verdict]


@dataclass(frozen=True)
class Findings:
    """Everything that was measured, and what was judged of it.

    `ledger` holds verdicts by claim; `histories` and `trials` the tables of each study, where a trial that diverged has
    True in the column `diverged`; `mechanisms` the tables of the probes by name; `training_images` how many there are.
    """

    parameters: ClaimsParameters
    ledger: dict[str, Verdict]
    histories: dict[str, pd.DataFrame]
    trials: dict[str, pd.DataFrame]
    timing: pd.DataFrame
    mechanisms: dict[str, pd.DataFrame]
    published: pd.DataFrame
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
        timing=read_table(RESULTS / "timing.csv", TIMING_COLUMNS, _remedy("timing"), DTYPES),
        mechanisms={
            name: read_table(RESULTS / "mechanisms" / f"{name}.csv", columns, _remedy("mechanisms"), DTYPES)
            for name, columns in MECHANISM_COLUMNS.items()
        },
        published=read_table(PUBLISHED, PUBLISHED_COLUMNS, "take it back from git", DTYPES),
        training_images=sum(read_profile(REPORTS / "data_profile.json", "report")["classes"]["train"].values()),
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
        raise PipelineError(f"{VERDICTS}: not found; {_remedy('verdicts')}") from None
    except ValidationError as error:
        raise PipelineError(f"{explain(error, f'{VERDICTS}: ')}; {_remedy('verdicts')}") from None
    except ValueError:
        raise PipelineError(f"{VERDICTS}: not valid JSON; {_remedy('verdicts')}") from None
    declared = {name: (claim.says, claim.metric, claim.smallest_effect) for name, claim in parameters.claims.items()}
    if declared != {name: (verdict.says, verdict.metric, verdict.smallest_effect) for name, verdict in ledger.items()}:
        raise PipelineError(f"{VERDICTS}: of other claims than claims/params.yaml declares; run `make verdicts`")
    return ledger


def _read_history(parameters: ClaimsParameters, study: str, trials: pd.DataFrame) -> pd.DataFrame:
    labels = label_columns(parameters, study)
    for name, table in (("trials", trials), ("history", history := read_histories(study))):
        if missing := [label for label in labels if label not in table]:
            raise PipelineError(f"{STUDIES / study / f'{name}.csv'}: has no column {', '.join(missing)}; {_remedy(f'study@{study}')}")
    marked = history.merge(trials[[*labels, "diverged"]], on=labels, how="left")
    if marked["diverged"].isna().any():
        raise PipelineError(f"{STUDIES / study / 'trials.csv'}: lacks trials of the history beside it; {_remedy(f'measure@{study}')}")
    return marked.astype({"diverged": bool})


def _remedy(stage: str) -> str:
    return f"run `dvc repro claims/dvc.yaml:{stage}` to make it"
