"""The verdict on each claim, from what was measured, and the files that hold the verdicts."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel

from claims.judging.amounts import MINUS, SPACE, threshold
from claims.judging.effects import interval, weigh
from claims.judging.inference import Effect, Judgement, judge, judge_timing
from claims.judging.parameters import EXACT, TIMED, Claim, ClaimSections
from claims.paths import RESULTS
from pipeline.common.statistics import summarize_differences
from pipeline.trials.notebook import BASELINE, BATCH_NORM

VERDICTS = RESULTS / "verdicts.json"
SIGNIFICANT_DIGITS = 6
DEFINITION = ("normalized_mean", "normalized_sd", "output_mean", "output_sd")  # checks that make out the exact claim
AS_STATED, NOT_AS_STATED = "true of x̂ only, in training", "not as stated"  # verdicts on it

Fields = dict[str, Any]


class _DeclaredClaim(BaseModel):
    id: str
    says: str
    kind: Literal["exact", "timed", "tested", "explored"]
    study: str
    metric: str
    unit: Literal["accuracy", "log_ratio", "nats", "decades", "exact"]
    null_effect: float | None
    smallest_effect: float | None
    orientation: str | None


class JudgedClaim(Judgement, _DeclaredClaim):
    """A claim with its effect, tests and verdict: a row of verdicts.csv, whose columns are the fields of the bases, the last base first.

    Effects are fractions, nats, decades or natural logarithms of ratios, as `unit` says.
    """

    literature: str
    citation: str

    @property
    def null(self) -> float:
        """The effect up to which the claim does not hold."""
        return self.null_effect or 0.0

    @property
    def has_margin(self) -> bool:
        """Whether the claim says “not worse”: it holds from a null effect below 0 on, and nothing more is asked."""
        return self.smallest_effect is not None and self.smallest_effect == self.null < 0

    @property
    def effect(self) -> dict[str, float]:
        """Mean, n and, where they exist, sd and the bounds of the interval; {} without any effect."""
        found = {name: getattr(self, name) for name in ("mean", "sd", "low_95", "high_95")}
        return {"n": self.n or 0, **{name: value for name, value in found.items() if value is not None}} if self.mean is not None else {}


def judge_claims(sections: ClaimSections, measured: Mapping[str, pd.DataFrame]) -> list[JudgedClaim]:
    """Judge every claim, in the order of declaration.

    `measured` holds the raw measures of each study's trials, the timings and the checks of the working principle, by study or stage.
    """
    on_studies = {name: claim for name, claim in sections.claims.items() if claim.effect}
    effects = {name: weigh(claim, claim.effect, name, measured[claim.study]) for name, claim in on_studies.items()}
    tested = {
        name: Effect(effects[name].dropna(), claim.null_effect, claim.smallest_effect)
        for name, claim in on_studies.items()
        if claim.smallest_effect is not None
    }
    judgements = judge(tested, sections.significance)
    rows = []
    for name, claim in sections.claims.items():
        found: Fields = {}
        if claim.kind == "exact":  # at inference normalized values are not what the definition says, and need not be
            defined = measured[EXACT][measured[EXACT]["check"].isin(DEFINITION)]
            as_stated = set(DEFINITION) <= set(defined["check"]) and bool(defined["passes"].eq("True").all())
            found["verdict"] = AS_STATED if as_stated else NOT_AS_STATED
        elif claim.kind == "timed":
            steps = measured[TIMED][measured[TIMED]["what"] == "training_step"]
            times = steps.pivot_table(index="block", columns="arm", values="milliseconds")
            found = judge_timing(times[BATCH_NORM], times[BASELINE], claim.null_effect, claim.smallest_effect or 0.0).model_dump()
            found |= {"differences": (times[BATCH_NORM] / times[BASELINE]).map(math.log).to_dict(), "excluded": []}
        else:
            known = effects[name].dropna()
            if claim.kind == "tested":
                found = judgements[name].model_dump()
                found["power_note"] = _power_note(found["power"], found["detectable"], claim)
            else:
                found = {"n": 0} if known.empty else asdict(summarize_differences(known))
            found |= {"differences": known.to_dict(), "excluded": effects[name].index[effects[name].isna()].tolist()}
        if claim.premise:
            found["premise"] = interval(weigh(claim, claim.premise.effect, name, measured[claim.study]))
        if (mean := found.get("mean")) is not None:
            found["direction"] = claim.if_above if mean > 0 else claim.if_below if mean < 0 else "there was no difference"
        declared = claim.model_dump(include=JudgedClaim.model_fields.keys() - {"premise"})
        rows.append(JudgedClaim(id=name, kind=claim.kind, orientation=_orientation(claim), **_rounded(found), **declared))
    return rows


def _rounded(values: Mapping[Any, Any]) -> Fields:
    rounded: Fields = {}
    for key, value in values.items():
        if isinstance(value, dict):
            rounded[str(key)] = _rounded(value)
        else:
            is_number = isinstance(value, float) and math.isfinite(value)
            rounded[str(key)] = float(f"{value:.{SIGNIFICANT_DIGITS}g}") if is_number else value
    return rounded


def _orientation(claim: Claim) -> str | None:
    """Return what is taken from what, and which side of which effect speaks for a claim; None without an effect."""
    if claim.kind == "exact":
        return None
    difference = f"log({BATCH_NORM}) {MINUS} log({BASELINE})" if claim.kind == "timed" else ""
    for term in claim.effect:
        level = f" ({', '.join(f'{key} {value}' for key, value in term.level.items())})" if term.level else ""
        weight = "" if abs(term.weight) == 1 else f"{abs(term.weight):g}·"
        difference += f" {MINUS if term.weight < 0 else '+'} {weight}{term.arm}{level}"
    return f"{difference.removeprefix(' + ').strip()}; above {threshold(claim.null_effect, claim.unit)} it speaks for the claim"


def _power_note(power: float | None, detectable: float | None, claim: Claim) -> str:
    """Return what test A, before correction, could have found with this number of seeds and this spread between them."""
    parts = []
    if power is not None and claim.smallest_effect is not None:
        smallest = threshold(claim.smallest_effect, claim.unit)
        parts.append(f"had the true effect been {smallest}, test A, before correction, would have rejected with a power of {power:.2f}")
    if detectable is not None:
        parts.append(f"with this spread and n, it rejects in 80{SPACE}% of cases for an effect of {threshold(detectable, claim.unit)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else "It needs a spread between seeds, of which there is none to judge by."


def as_files(set_of_studies: str, significance: float, rows: list[JudgedClaim]) -> dict[str, str]:
    """Return the text of each file of the verdicts. DVC compares `effects.json` as metrics, so it has no lists."""
    document = {"set": set_of_studies, "significance": significance, "claims": [row.model_dump() for row in rows]}
    effects = {row.id: {name: getattr(row, name) for name in ("verdict", "mean") if getattr(row, name) is not None} for row in rows}
    return {
        "effects.json": json.dumps(effects, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "verdicts.json": json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "verdicts.csv": as_table(rows).to_csv(index=False, lineterminator="\n"),
    }


def as_table(rows: list[JudgedClaim]) -> pd.DataFrame:
    """Return the rows as a table, with lists and mappings as text."""

    def as_text(value: object) -> object:
        if isinstance(value, dict):
            return "; ".join(f"{key}: {item}" for key, item in value.items())
        return "; ".join(map(str, value)) if isinstance(value, list) else value

    return pd.DataFrame([{column: as_text(value) for column, value in row.model_dump().items()} for row in rows])
