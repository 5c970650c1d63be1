"""The report as files: figures, Markdown, one self-contained page, the tables, and metrics.json."""

import json
from pathlib import Path

from pipeline.pages.html import make_page
from pipeline.pages.rendering import render
from pipeline.reporting.facts import describe, summarize_results
from pipeline.reporting.figures import draw_figures
from pipeline.reporting.tables import Tables
from pipeline.trials.parameters import Parameters

TEMPLATES = Path(__file__).parent / "templates"


def make_report(parameters: Parameters, tables: Tables) -> dict[str, str]:
    """Return the text of every file of the report, by its path below reports/notebook.

    Raises:
        PipelineError: The tables lack something that the report compares.
    """
    metrics = summarize_results(tables, parameters)
    facts = describe(parameters, tables, metrics)
    svgs = draw_figures(parameters, tables, facts["updates_of_sizes"], facts["trained_on"])
    markdown = render("report.md", TEMPLATES, **facts)
    return {
        **svgs,
        **tables.as_files(),
        "report.md": markdown,
        "report.html": make_page(markdown, svgs),
        "metrics.json": json.dumps(metrics, indent=2, sort_keys=True) + "\n",
    }
