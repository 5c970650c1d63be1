"""The arms and levels of a study side by side: mean and SD over seeds, and differences paired by seed."""

import math
from dataclasses import dataclass

import pandas as pd

from pipeline.common.errors import PipelineError
from pipeline.common.statistics import paired_difference, summarize
from pipeline.tracking.names import ARM, CODE, DATA_MD5, DIVERGED, RECALIBRATED, STUDY

LABELS = (STUDY, ARM, DATA_MD5, CODE, "seed", "start_time")
PARAMETER = "params."

Key = tuple[str, ...]  # an arm, then the values of its level


@dataclass(frozen=True)
class _Row:
    """One arm at one level: its name, its last metrics by seed, and the key of the row that it is compared with."""

    name: str
    trials: pd.DataFrame
    reference: Key | None

    @property
    def diverged(self) -> "pd.Series[bool]":
        """Whether the trial of each seed diverged."""
        return self.trials[DIVERGED] == 1 if DIVERGED in self.trials else pd.Series(data=False, index=self.trials.index)

    def values(self, metric: str) -> "pd.Series[float]":
        """Return the metric of the trials that did not diverge, by seed."""
        finished = self.trials[~self.diverged]
        plain = metric.removesuffix(RECALIBRATED)  # what has no moving averages has nothing to recalibrate
        return (finished[metric].fillna(finished[plain]) if plain in finished else finished[metric]).dropna()


def compare(
    trials: pd.DataFrame, study: str, metrics: list[str], *, code: str, usual_reference: str, reference: str | None = None
) -> pd.DataFrame:
    """Return a row per arm, level and metric: `mean`, `sd`, `n`, and the `difference` to a `reference` with its 95 % interval.

    `trials` is what `Ledger.finished_trials` returns. A cell is compared with the arm `reference` at the same level (without
    one, with the arm `usual_reference`, or else with the arm that was trained first). Where there is one arm only, it is
    compared with the study's first level. Trials of other data or of another `code` are left out, and so are those that
    diverged, which the column `diverged` counts.

    Raises:
        PipelineError: The ledger has no such study, arm or metric.
    """
    studies = sorted({name for names in trials[STUDY] for name in names.split(",")}) if len(trials) else []
    if study not in studies:
        raise missing(study, studies)
    chosen = _of_one_generation(trials[[study in names.split(",") for names in trials[STUDY]]], code)
    known = sorted(name for name in map(str, chosen) if name not in LABELS and not name.startswith(PARAMETER))
    if unknown := [metric for metric in metrics if metric not in known]:
        raise PipelineError(f"--metric {unknown[0]}: no trial of study '{study}' has it; there are {', '.join(known)}")
    rows = _rows(chosen, reference, usual_reference)
    table = []
    for row in rows.values():
        for metric in metrics:
            ours = row.values(metric)
            found = summarize(ours) if len(ours) else None
            compared = rows[row.reference] if row.reference else None
            theirs = compared.values(metric) if compared else ours.iloc[:0]
            seeds = ours.index.intersection(theirs.index)
            difference = paired_difference(ours[seeds], theirs[seeds]) if len(seeds) else None
            table.append(
                {
                    "cell": row.name,
                    "metric": metric,
                    "mean": found.mean if found else None,
                    "sd": found.sd if found else None,
                    "n": len(ours),
                    "diverged": int(row.diverged.sum()),
                    "reference": compared.name if compared and difference else None,
                    "difference": difference.mean if difference else None,
                    "low_95": difference.low_95 if difference else None,
                    "high_95": difference.high_95 if difference else None,
                    "pairs": difference.n if difference else None,
                }
            )
    return pd.DataFrame(table).astype({"pairs": "Int64"})


def missing(study: str, studies: list[str]) -> PipelineError:
    """Return the error that no trial of a study is in the ledger, which has trials of other `studies`."""
    there = f"; the newest are of {', '.join(studies)}" if studies else ", nor of any other; run `make repro`"
    return PipelineError(f"--study {study}: no finished trial of it is in the ledger{there}")


def _of_one_generation(trials: pd.DataFrame, code: str) -> pd.DataFrame:
    """Return the trials of one code and one data set: of this code, or else of the newest, and of the newest data.

    Trials of a store that an earlier version wrote do not say which code made them; they count with whatever is kept.
    """
    trials = trials.sort_values("start_time", kind="stable")
    kept = code if (trials[CODE] == code).any() else trials[CODE].iloc[-1]
    trials = trials[trials[CODE].isin([kept, ""])]
    of_same_data: pd.DataFrame = trials[trials[DATA_MD5] == trials[DATA_MD5].iloc[-1]]
    return of_same_data


def _rows(trials: pd.DataFrame, reference: str | None, usual_reference: str) -> dict[Key, _Row]:
    """Return the arms at their levels by key, the reference arm first, then in the order in which arms began."""
    arms = list(dict.fromkeys(trials[ARM]))
    first = reference or (usual_reference if usual_reference in arms else arms[0])
    if first not in arms:
        raise PipelineError(f"--reference {first}: no such arm in the study; there are {', '.join(arms)}")
    parameters = [name for name in map(str, trials) if name.startswith(PARAMETER) and name != f"{PARAMETER}seed"]
    level = [name for name in parameters if trials.groupby(ARM)[name].nunique().max() > 1]
    groups = {tuple(map(str, key)): group for key, group in trials.groupby([ARM, *level], dropna=False)}
    order = sorted(groups, key=lambda key: (key[0] != first, arms.index(key[0]), [_by_size(value) for value in key[1:]]))
    rows = {}
    for key in order:
        compared = order[0] if len(arms) == 1 else (first, *key[1:])
        values = [f"{parameter.removeprefix(PARAMETER)} {value}" for parameter, value in zip(level, key[1:], strict=True)]
        by_seed = groups[key].drop_duplicates("seed", keep="last").set_index("seed").sort_index()
        rows[key] = _Row(", ".join([key[0], *values]), by_seed, compared if compared in groups and compared != key else None)
    return rows


def _by_size(value: str) -> tuple[float, str]:
    """Return what sorts numbers by size, and before texts."""
    try:
        return float(value), value
    except ValueError:
        return math.inf, value
