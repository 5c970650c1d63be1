"""Reads tables and JSON objects that a stage wrote, and refuses what no stage writes."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.errors import PipelineError

TEXT = ("study", "arm", "class", "actual", "predicted", "reference", "sha256", "path", "md5", "layer", "output")
WHOLE_NUMBERS = ("batch_size", "seed", "epoch", "support", "count", "trained", "moving")
DTYPES = defaultdict(lambda: "float64", dict.fromkeys(TEXT, "str") | dict.fromkeys(WHOLE_NUMBERS, "int64"))


def read_table(path: Path, columns: list[str], remedy: str, dtypes: Mapping[str, str] = DTYPES) -> pd.DataFrame:
    """Read a CSV file. A column without a type in `dtypes` gets the type that fits its values.

    Raises:
        PipelineError: The file is missing, is not such a table, or lacks one of `columns`.
    """
    try:
        table = pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values=[""])  # an arm may be named nan
    except FileNotFoundError:
        raise PipelineError(f"{path}: not found; {remedy}") from None
    except (ValueError, OverflowError) as error:
        raise PipelineError(f"{path}: not a table of what was measured ({' '.join(str(error).split())}); {remedy}") from None
    if missing := [column for column in columns if column not in table]:
        raise PipelineError(f"{path}: has no column {', '.join(missing)}; {remedy}")
    return table


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """Read a JSON object that a stage wrote.

    Raises:
        PipelineError: The file is missing, or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: not found; run `dvc repro {stage}` to make it") from None
    except ValueError:
        raise PipelineError(f"{path}: not valid JSON; run `dvc repro --force {stage}`") from None
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: should be a JSON object; run `dvc repro --force {stage}`")
    return content
