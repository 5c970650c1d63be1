"""Writes the page that `dvc plots` fills, with Vega inside. DVC's own page fetches Vega from the network, and stays empty without it."""

import argparse
from pathlib import Path

from vl_convert import javascript_bundle

from pipeline.common.command import run
from pipeline.common.files import replacing
from pipeline.pages.rendering import TEMPLATES

VEGA_LITE = "5.20"  # of the same major version as the templates in .dvc/plots


def main() -> None:
    """Write the page to the path that is given, for DVC's `plots.html_template`."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.pages.plots", description=__doc__)
    parser.add_argument("page", type=Path, help="where to write it")
    with replacing(parser.parse_args().page) as path:
        path.write_text(make_page(), encoding="utf-8")


def make_page() -> str:
    """Return the page with Vega, Vega-Lite and Vega-Embed inside. Their names do not mix with those of the plots' own scripts.

    DVC puts the plots in place of {plot_divs}. The page has no {scripts}, since DVC would put links to the network there.
    """
    page = (TEMPLATES / "plots.html").read_text(encoding="utf-8")
    return page.replace("VEGA", javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE))


if __name__ == "__main__":
    run(main)
