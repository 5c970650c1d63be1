"""DVC stage `verdicts`: what was measured for each claim, judged; nothing is trained for it."""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from claims.judging.contrasts import interval, weigh
from claims.judging.inference import Effect, judge, judge_timing
from claims.reporting.phrases import AS_STATED, NOT_AS_STATED, orientation, power_note
from claims.studies.parameters import EXACT, RESULTS, TIMED, Claim, ClaimsParameters, load_claims
from claims.studies.tables import read_mechanism, read_study, read_timing
from pipeline.common.command import run
from pipeline.common.files import replacing
from pipeline.common.statistics import summarize_differences
from pipeline.tracking.ledger import Ledger
from pipeline.trials.notebook import BASELINE, BATCH_NORM

SIGNIFICANT_DIGITS = 6
DEFINITION = ("normalized_mean", "normalized_sd", "output_mean", "output_sd")  # checks that make out the exact claim

DECLARED = {"says", "study", "metric", "unit", "null_effect", "smallest_effect", "literature", "citation"}
COLUMNS = (
    *("id", "says", "kind", "study", "metric", "unit", "null_effect", "smallest_effect", "orientation", "n", "excluded", "differences"),
    *("mean", "sd", "low_95", "high_95", "d_z", "p_above", "p_above_holm", "p_below", "p_below_holm", "p_reversed_holm"),
    *("power", "detectable", "power_note", "premise", "verdict", "direction", "literature", "citation"),
)

Row = dict[str, Any]


def main() -> None:
    """Judge every claim, write reports/claims/verdicts.json and .csv and effects.json, and log the verdicts to MLflow."""
    argparse.ArgumentParser(prog="python -m claims.verdicts", description=__doc__).parse_args()
    parameters = load_claims()
    rows = judge_claims(parameters, read_measured(parameters))
    for name, text in as_files(parameters, rows).items():
        with replacing(RESULTS / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with Ledger() as ledger:
        effects = {f"effect_{row['id']}": row["mean"] for row in rows if row["mean"] is not None}
        ledger.log_verdicts(as_table(rows), effects)
        ledger.tag_claims({name: claim.study for name, claim in parameters.claims.items()})


def read_measured(parameters: ClaimsParameters, results: Path = RESULTS) -> dict[str, pd.DataFrame]:
    """Read the raw measures of each study's trials, the timings and the checks of the working principle, by study or stage."""
    studies = {name: read_study(name, "trials", ["diverged"], results / "studies") for name in parameters.studies}
    return {**studies, TIMED: read_timing(results), EXACT: read_mechanism("working_principle", results)}


def judge_claims(parameters: ClaimsParameters, measured: Mapping[str, pd.DataFrame]) -> list[Row]:
    """Give one row for each claim, in the order of their declaration; what does not exist is None."""
    on_studies = {name: claim for name, claim in parameters.claims.items() if claim.effect}
    effects = {name: weigh(claim, claim.effect, name, measured[claim.study]) for name, claim in on_studies.items()}
    tested = {
        name: Effect(effects[name].dropna(), claim.null_effect, claim.smallest_effect)
        for name, claim in on_studies.items()
        if claim.smallest_effect is not None
    }
    judgements = {name: asdict(judgement) for name, judgement in judge(tested, parameters.significance).items()}
    rows = []
    for name, claim in parameters.claims.items():
        match claim.kind:
            case "exact":
                judged = _judge_exactly(measured[EXACT])
            case "timed":
                judged = _judge_timing(claim, measured[TIMED])
            case "tested":
                judged = {**_describe(effects[name]), **judgements[name]}
            case "explored":
                judged = {**_describe(effects[name]), **_summarize(effects[name].dropna())}
        if claim.premise:
            judged["premise"] = interval(weigh(claim, claim.premise.effect, name, measured[claim.study]))
        declared = claim.model_dump(include=DECLARED)
        rows.append({"id": name, "kind": claim.kind, **_rounded(judged), **declared, **_in_words(claim, judged)})
    return [{column: row.get(column) for column in COLUMNS} for row in rows]


def _in_words(claim: Claim, judged: Row) -> Row:
    tested = claim.kind == "tested"
    return {
        "orientation": orientation(claim),
        "power_note": power_note(judged["power"], judged["detectable"], claim) if tested else None,
        "direction": _direction(claim, judged.get("mean")),
    }


def _direction(claim: Claim, mean: float | None) -> str | None:
    if mean is None:
        return None
    return claim.if_above if mean > 0 else claim.if_below if mean < 0 else "there was no difference"


def _describe(effects: "pd.Series[float]") -> Row:
    """Give each seed's effect, and the seeds that have none because a trial diverged."""
    return {"differences": effects.dropna().to_dict(), "excluded": effects.index[effects.isna()].tolist()}


def _summarize(effects: "pd.Series[float]") -> Row:
    return {"n": 0} if effects.empty else asdict(summarize_differences(effects))


def _judge_exactly(checks: pd.DataFrame) -> Row:
    """Whether normalized values and outputs are what the definition says; at inference they are not, and need not be."""
    defined = checks[checks["check"].isin(DEFINITION)]
    as_stated = set(DEFINITION) <= set(defined["check"]) and bool(defined["passes"].eq("True").all())
    return {"verdict": AS_STATED if as_stated else NOT_AS_STATED}


def _judge_timing(claim: Claim, timings: pd.DataFrame) -> Row:
    """Judge the time of a training step by its ratio; `differences` are each block's own log ratios."""
    steps = timings[timings["what"] == "training_step"].pivot_table(index="block", columns="arm", values="milliseconds")
    judgement = judge_timing(steps[BATCH_NORM], steps[BASELINE], claim.null_effect, claim.smallest_effect or 0.0)
    return {"differences": (steps[BATCH_NORM] / steps[BASELINE]).map(math.log).to_dict(), "excluded": [], **asdict(judgement)}


def _rounded(values: Mapping[Any, Any]) -> Row:
    return {str(key): _rounded(value) if isinstance(value, dict) else _rounded_number(value) for key, value in values.items()}


def _rounded_number(value: object) -> object:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if isinstance(value, float) and math.isfinite(value) else value


def as_files(parameters: ClaimsParameters, rows: list[Row]) -> dict[str, str]:
    """Give the files of the verdicts, and their texts; `effects.json` is what DVC compares as metrics, and so without lists."""
    document = {"set": parameters.set, "significance": parameters.significance, "claims": rows}
    effects = {row["id"]: {name: row[name] for name in ("verdict", "mean") if row[name] is not None} for row in rows}
    return {
        "effects.json": json.dumps(effects, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "verdicts.json": json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "verdicts.csv": as_table(rows).to_csv(index=False, lineterminator="\n"),
    }


def as_table(rows: list[Row]) -> pd.DataFrame:
    """Give the rows as a table, lists and mappings as text."""
    return pd.DataFrame([{column: _as_text(value) for column, value in row.items()} for row in rows])


def _as_text(value: object) -> object:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {item}" for key, item in value.items())
    return "; ".join(map(str, value)) if isinstance(value, list) else value


if __name__ == "__main__":
    run(main)
