"""Keep the README's headline results equal to reports/notebook/metrics.json."""

import argparse
import json
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.pages.rendering import render
from pipeline.trials.notebook import BASELINE, BATCH_NORM, TRAIN

README = Path("README.md")
METRICS = Path("reports/notebook/metrics.json")
BEGIN = "<!-- results: made by python -m pipeline.reporting.readme -->"
END = "<!-- end of results -->"


def main() -> None:
    """Read reports/notebook/metrics.json and write README.md, or with --check only compare."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.reporting.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the results in the README are not current")
    check = parser.parse_args().check
    update_page(BEGIN, END, headline_results(read_metrics(METRICS)), check=check, remedy="run `python -m pipeline.reporting.readme`")


def read_metrics(path: Path) -> dict[str, Any]:
    """Read what the report stage wrote.

    Raises:
        PipelineError: the file is missing, or is not JSON.
    """
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: not found; run `dvc repro report` to make it") from None
    except ValueError:
        raise PipelineError(f"{path}: not valid JSON; run `dvc repro --force report`") from None
    return metrics


def headline_results(metrics: dict[str, Any]) -> str:
    """Write the headline results as Markdown.

    Raises:
        PipelineError: `metrics` lacks a headline figure.
    """
    try:
        difference = metrics[f"{TRAIN}_differences"][f"{BATCH_NORM}_minus_{BASELINE}"]
        return render("readme.md", metrics=metrics, difference=difference)
    except (KeyError, TypeError, ValueError, UndefinedError) as error:
        raise PipelineError(f"{METRICS}: not as the report writes it ({error}); run `dvc repro --force report`") from None


def update_page(begin: str, end: str, block: str, *, remedy: str, check: bool = False, page: Path = README) -> None:
    """Put a block of Markdown between two marker lines of a page; with `check`, write nothing.

    Raises:
        PipelineError: the markers are not there, or with `check`, something else stands between them.
    """
    present = page.read_text(encoding="utf-8")
    current = replace_between(present, begin, end, block, page)
    if current == present:
        return
    if check:
        raise PipelineError(f"{page}: what stands after '{begin}' is not current; {remedy}")
    with replacing(page) as path:
        path.write_text(current, encoding="utf-8")


def replace_between(text: str, begin: str, end: str, block: str, page: Path = README) -> str:
    """Put a block of Markdown between two marker lines of a page's text.

    Raises:
        PipelineError: the markers are not there, once each and in order.
    """
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end) or begin in rest or end in before + after:
        raise PipelineError(f"{page}: should have the lines '{begin}' and '{end}', once each; put them where the block belongs")
    return f"{before}{begin}\n{block.strip()}\n{end}{after}"


if __name__ == "__main__":
    run(main)
