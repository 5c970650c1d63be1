"""Compare the arms and levels of a study, as the ledger has them: mean and SD over seeds, and differences paired by seed."""

import argparse
import math
import sys

import pandas as pd

from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.statistics import paired_difference, summarize
from pipeline.tracking.names import ARM, CODE, DATA_MD5, DIVERGED, LAST_METRICS, RECALIBRATED, STUDY
from pipeline.trials.key import code_fingerprint
from pipeline.trials.notebook import BASELINE

LABELS = (STUDY, ARM, DATA_MD5, CODE, "seed", "start_time")
PARAMETER = "params."
COLUMNS = ["cell", "metric", "mean", "sd", "n", "diverged", "reference", "difference", "low_95", "high_95", "pairs"]


def main() -> None:
    """Print the comparison, or with --format write it as CSV or JSON to standard output."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.compare", description=__doc__)
    parser.add_argument("--study", default="train", help="a study that has run (default: %(default)s)")
    parser.add_argument("--metric", action="append", help=f"may be repeated (default: {', '.join(LAST_METRICS)})")
    parser.add_argument("--reference", help="arm to compare with (default: baseline, or the arm that was trained first)")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    arguments = parser.parse_args()
    study = arguments.study
    from pipeline.tracking.ledger import Ledger  # here, so that --help need not wait for MLflow

    with Ledger() as ledger:
        trials = ledger.finished_trials(study)
        if trials.empty:
            studies = ledger.newest_studies()
            there = f"; the newest are of {', '.join(studies)}" if studies else ", nor of any other; run `make repro`"
            raise PipelineError(f"--study {study}: no finished trial of it is in the ledger{there}")
    table = compare(trials, study, arguments.metric or list(LAST_METRICS), arguments.reference)
    if arguments.format == "csv":
        table.to_csv(sys.stdout, index=False)
    elif arguments.format == "json":
        print(table.to_json(orient="records", indent=2, double_precision=15))
    else:
        _print(table, study)


def compare(trials: pd.DataFrame, study: str, metrics: list[str], reference: str | None = None) -> pd.DataFrame:
    """Return a row per arm, level and metric: `mean`, `sd`, `n`, and the `difference` to a `reference` with its 95 % interval.

    `trials` is what `Ledger.finished_trials` returns of the study. A cell is compared with the arm `reference` at the same
    level (without one, with the baseline, or else with the arm that was trained first). Where there is one arm only, it is
    compared with the study's first level. Trials of other data or of other code are left out, and so are those that
    diverged, which the column `diverged` counts.

    Raises:
        PipelineError: The study has no such arm or metric.
    """
    # Of one code and one data set: of this code, or else of the newest, and of the newest data.
    trials = trials.sort_values("start_time", kind="stable")
    code = code_fingerprint()
    trials = trials[trials[CODE] == (code if (trials[CODE] == code).any() else trials[CODE].iloc[-1])]
    trials = trials[trials[DATA_MD5] == trials[DATA_MD5].iloc[-1]]
    trials = trials.assign(**{DIVERGED: trials.get(DIVERGED, 0.0)})
    known = sorted(name for name in map(str, trials) if name not in LABELS and not name.startswith(PARAMETER))
    if unknown := [metric for metric in metrics if metric not in known]:
        raise PipelineError(f"--metric {unknown[0]}: no trial of study '{study}' has it; there are {', '.join(known)}")
    arms = list(dict.fromkeys(trials[ARM]))
    first = reference or (BASELINE if BASELINE in arms else arms[0])
    if first not in arms:
        raise PipelineError(f"--reference {first}: no such arm in the study; there are {', '.join(arms)}")
    parameters = [name for name in map(str, trials) if name.startswith(PARAMETER) and name != f"{PARAMETER}seed"]
    level = [name for name in parameters if trials.groupby(ARM)[name].nunique().max() > 1]
    # Of each seed the newest trial, by arm and the values of its level.
    cells = {
        tuple(map(str, key)): cell.drop_duplicates("seed", keep="last").set_index("seed").sort_index()
        for key, cell in trials.groupby([ARM, *level], dropna=False)
    }
    names = {
        key: ", ".join([key[0], *(f"{name.removeprefix(PARAMETER)} {value}" for name, value in zip(level, key[1:], strict=True))])
        for key in cells
    }
    order = sorted(cells, key=lambda key: (key[0] != first, arms.index(key[0]), [_by_size(value) for value in key[1:]]))
    table = []
    for key in order:
        compared = order[0] if len(arms) == 1 else (first, *key[1:])
        for metric in metrics:
            ours = _values(cells[key], metric)
            row = {"cell": names[key], "metric": metric, "n": len(ours), "diverged": int((cells[key][DIVERGED] == 1).sum())}
            if len(ours):
                found = summarize(ours)
                row |= {"mean": found.mean, "sd": found.sd}
            theirs = _values(cells[compared], metric) if compared in cells and compared != key else ours.iloc[:0]
            if len(seeds := ours.index.intersection(theirs.index)):
                difference = paired_difference(ours[seeds], theirs[seeds])
                row |= {"reference": names[compared], "difference": difference.mean, "pairs": difference.n}
                row |= {"low_95": difference.low_95, "high_95": difference.high_95}
            table.append(row)
    return pd.DataFrame(table, columns=COLUMNS).astype({"pairs": "Int64"})


def _by_size(value: str) -> tuple[float, str]:
    """Return what sorts numbers by size, and before texts."""
    try:
        return float(value), value
    except ValueError:
        return math.inf, value


def _values(trials: pd.DataFrame, metric: str) -> "pd.Series[float]":
    """Return the last value of a metric by seed, of the trials that did not diverge."""
    finished = trials[trials[DIVERGED] != 1]
    plain = metric.removesuffix(RECALIBRATED)  # what has no moving averages has nothing to recalibrate
    return (finished[metric].fillna(finished[plain]) if plain in finished else finished[metric]).dropna()


def _print(table: pd.DataFrame, study: str) -> None:
    from rich.console import Console  # here, since only a table needs it
    from rich.table import Table

    shown = Table(title=f"study {study}: last epoch, mean ± SD over seeds; differences are paired, with their 95 % interval")
    for heading in ("cell", "metric", "mean ± SD", "n", "difference", "to"):
        shown.add_column(heading, justify="right" if heading in ("mean ± SD", "n", "difference") else "left")
    for row in table.to_dict("records"):
        spread = "" if pd.isna(row["sd"]) else f" ± {row['sd']:.4f}"
        mean = "–" if pd.isna(row["mean"]) else f"{row['mean']:.4f}{spread}"
        lost = f" ({row['diverged']} diverged)" if row["diverged"] else ""
        interval = "" if pd.isna(row["low_95"]) else f" [{row['low_95']:+.4f}, {row['high_95']:+.4f}]"
        difference = "" if pd.isna(row["difference"]) else f"{row['difference']:+.4f}{interval}"
        reference = "" if pd.isna(row["reference"]) else str(row["reference"])
        shown.add_row(str(row["cell"]), str(row["metric"]), mean, f"{row['n']}{lost}", difference, reference)
    Console(width=None if sys.stdout.isatty() else 200).print(shown)


if __name__ == "__main__":
    run(main)
