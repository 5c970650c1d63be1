"""Compare the arms and levels of a study, as the ledger has them: mean and SD over seeds, and differences paired by seed."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.statistics import PairedDifference, paired_difference, summarize
from pipeline.trials.key import code_fingerprint
from pipeline.trials.notebook import BASELINE

METRICS = ("val_accuracy", "val_accuracy_recalibrated", "val_loss", "train_eval_accuracy")
LABELS = ("study", "arm", "seed", "start_time", "data_md5", "code")
PARAMETER = "params."
RECALIBRATED = "_recalibrated"


@dataclass(frozen=True)
class Cell:
    """An arm at one level: its name, its last metrics by seed, and the name of the cell that it is compared with."""

    name: str
    values: pd.DataFrame
    reference: str | None


def main() -> None:
    """Print the comparison, or with --format write it as CSV or JSON to standard output."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.tracking.compare", description=__doc__)
    parser.add_argument("--study", default="train", help="a study that has run (default: %(default)s)")
    parser.add_argument("--metric", action="append", help=f"may be repeated (default: {', '.join(METRICS)})")
    parser.add_argument("--reference", help="arm to compare with (default: baseline, or the arm that was trained first)")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    arguments = parser.parse_args()
    from pipeline.tracking.store import Ledger

    with Ledger() as ledger:
        trials = ledger.finished_trials(arguments.study)
        if trials.empty:
            raise _missing(arguments.study, ledger.newest_studies())
    table = compare(trials, arguments.study, arguments.metric or list(METRICS), arguments.reference)
    write: dict[str, Callable[[], object]] = {
        "table": lambda: _print(table, arguments.study),
        "csv": lambda: table.to_csv(sys.stdout, index=False),
        "json": lambda: print(table.to_json(orient="records", indent=2, double_precision=15)),
    }
    write[arguments.format]()


def compare(trials: pd.DataFrame, study: str, metrics: list[str], reference: str | None = None) -> pd.DataFrame:
    """Give a row per cell and metric: `mean`, `sd`, `n`, and `difference` to a `reference` cell with its 95 % interval.

    `trials` is what `Ledger.finished_trials` gives. A cell is compared with the reference arm at the same level; where
    there is one arm only, with the study's first level. Trials of earlier code or of other data are left out, and so are
    those that diverged, which `diverged` counts.

    Raises:
        PipelineError: the ledger has no such study, arm or metric.
    """
    chosen = _of_study(trials, study)
    known = sorted(name for name in map(str, chosen) if name not in LABELS and not name.startswith(PARAMETER))
    if unknown := [metric for metric in metrics if metric not in known]:
        raise PipelineError(f"--metric {unknown[0]}: no trial of study '{study}' has it; there are {', '.join(known)}")
    cells = _cells(chosen, reference)
    by_name = {cell.name: cell for cell in cells}
    rows = [
        {"cell": cell.name, "metric": metric, **_summary(cell.values, metric), **_difference(cell, by_name, metric)}
        for cell in cells
        for metric in metrics
    ]
    return pd.DataFrame(rows).astype({"pairs": "Int64"})


def _of_study(trials: pd.DataFrame, study: str) -> pd.DataFrame:
    studies = sorted({name for names in trials["study"] for name in names.split(",")}) if len(trials) else []
    if study not in studies:
        raise _missing(study, studies)
    return _of_one_generation(trials[[study in names.split(",") for names in trials["study"]]])


def _missing(study: str, studies: list[str]) -> PipelineError:
    there = f"; the newest are of {', '.join(studies)}" if studies else ", nor of any other; run `make repro`"
    return PipelineError(f"--study {study}: no finished trial of it is in the ledger{there}")


def _of_one_generation(trials: pd.DataFrame) -> pd.DataFrame:
    """Keep trials of one code and one data set: of today's code if there are any, and of the newest data.

    Trials of a store that an earlier version wrote do not say which code made them; they count with whatever is kept.
    """
    today = code_fingerprint()
    code = today if (trials["code"] == today).any() else trials.sort_values("start_time")["code"].iloc[-1]
    same_code = trials[trials["code"].isin([code, ""])]
    data_md5 = same_code.sort_values("start_time")["data_md5"].iloc[-1]
    of_same_data: pd.DataFrame = same_code[same_code["data_md5"] == data_md5]
    return of_same_data


def _cells(trials: pd.DataFrame, reference: str | None) -> list[Cell]:
    arms = list(dict.fromkeys(trials["arm"]))
    chosen = reference or (BASELINE if BASELINE in arms else arms[0])
    if chosen not in arms:
        raise PipelineError(f"--reference {chosen}: no such arm in the study; there are {', '.join(arms)}")
    level = _what_varies_within_arms(trials)
    groups = {_key(key): group for key, group in trials.groupby(["arm", *level], dropna=False)}
    order = sorted(groups, key=lambda key: (key[0] != chosen, arms.index(key[0]), [_by_size(value) for value in key[1:]]))
    names = {key: _name(key, level) for key in order}
    return [Cell(names[key], _newest_by_seed(groups[key]), names.get(_reference_of(key, chosen, order))) for key in order]


def _key(key: object) -> tuple[str, ...]:
    return tuple(map(str, key)) if isinstance(key, tuple) else (str(key),)


def _by_size(value: str) -> tuple[float, str]:
    """Sort numbers by size, and before texts."""
    try:
        return float(value), value
    except ValueError:
        return math.inf, value


def _name(key: tuple[str, ...], level: list[str]) -> str:
    return ", ".join([key[0], *(f"{parameter.removeprefix(PARAMETER)} {value}" for parameter, value in zip(level, key[1:], strict=True))])


def _reference_of(key: tuple[str, ...], arm: str, order: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The reference arm at the same level; of one arm alone, its first level. A cell is not compared with itself."""
    one_arm = len({other[0] for other in order}) == 1
    found = order[0] if one_arm else (arm, *key[1:])
    return () if found == key else found


def _what_varies_within_arms(trials: pd.DataFrame) -> list[str]:
    parameters = [name for name in map(str, trials) if name.startswith(PARAMETER) and name != f"{PARAMETER}seed"]
    return [name for name in parameters if trials.groupby("arm")[name].nunique().max() > 1]


def _newest_by_seed(trials: pd.DataFrame) -> pd.DataFrame:
    return trials.sort_values("start_time").drop_duplicates("seed", keep="last").set_index("seed").sort_index()


def _finished(values: pd.DataFrame, metric: str) -> "pd.Series[float]":
    finished = values[~_has_diverged(values)]
    plain = metric.removesuffix(RECALIBRATED)  # what has no moving averages has nothing to recalibrate
    return (finished[metric].fillna(finished[plain]) if plain in finished else finished[metric]).dropna()


def _has_diverged(values: pd.DataFrame) -> "pd.Series[bool]":
    return values["diverged"] == 1 if "diverged" in values else pd.Series(data=False, index=values.index)


def _summary(values: pd.DataFrame, metric: str) -> dict[str, object]:
    finished = _finished(values, metric)
    found = summarize(finished) if len(finished) else None
    return {
        "mean": found.mean if found else None,
        "sd": found.sd if found else None,
        "n": len(finished),
        "diverged": int(_has_diverged(values).sum()),
    }


def _difference(cell: Cell, cells: dict[str, Cell], metric: str) -> dict[str, object]:
    difference = _paired(cell, cells, metric)
    return {
        "reference": cell.reference if difference else None,
        "difference": difference.mean if difference else None,
        "low_95": difference.low_95 if difference else None,
        "high_95": difference.high_95 if difference else None,
        "pairs": difference.n if difference else None,
    }


def _paired(cell: Cell, cells: dict[str, Cell], metric: str) -> PairedDifference | None:
    if cell.reference is None:
        return None
    ours, theirs = _finished(cell.values, metric), _finished(cells[cell.reference].values, metric)
    seeds = ours.index.intersection(theirs.index)
    return paired_difference(ours[seeds], theirs[seeds]) if len(seeds) else None


def _print(table: pd.DataFrame, study: str) -> None:
    from rich.console import Console
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
        shown.add_row(
            str(row["cell"]),
            str(row["metric"]),
            mean,
            f"{row['n']}{lost}",
            difference,
            "" if pd.isna(row["reference"]) else str(row["reference"]),
        )
    Console(width=None if sys.stdout.isatty() else 200).print(shown)


if __name__ == "__main__":
    run(main)
