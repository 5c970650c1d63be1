"""Keeps the README's headline results equal to reports/notebook/metrics.json."""

import argparse
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.tables import read_json
from pipeline.pages.generated import REPORTS, update_page
from pipeline.pages.rendering import render
from pipeline.trials.notebook import BASELINE, BATCH_NORM, TRAIN

TEMPLATES = Path(__file__).parent / "templates"
METRICS = REPORTS / "metrics.json"


def main() -> None:
    """Read metrics.json and write README.md. With --check, only compare."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.reporting.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the results in the README are not current")
    check = parser.parse_args().check
    update_page("results", "python -m pipeline.reporting.readme", headline_results(read_json(METRICS, "report")), check=check)


def headline_results(metrics: dict[str, Any]) -> str:
    """Return the headline results as Markdown.

    Raises:
        PipelineError: `metrics` lacks a headline figure.
    """
    try:
        difference = metrics[f"{TRAIN}_differences"][f"{BATCH_NORM}_minus_{BASELINE}"]
        return render("readme.md", TEMPLATES, metrics=metrics, difference=difference)
    except (KeyError, TypeError, ValueError, UndefinedError) as error:
        raise PipelineError(f"{METRICS}: not as the report writes it ({error}); run `dvc repro --force report`") from None


if __name__ == "__main__":
    run(main)
