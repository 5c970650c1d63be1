"""The page that `dvc plots` fills, with Vega inside: DVC's own takes it from the network, and stays empty without."""

import argparse
from pathlib import Path

from vl_convert import javascript_bundle

from pipeline.common.command import run
from pipeline.common.files import replacing

VEGA_LITE = "5.20"  # of the same major version as the templates in .dvc/plots

# DVC puts the plots in place of {plot_divs}; what it would put in place of {scripts} comes from the network.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh_tag}
<title>Plots of the Batch Normalization laboratory</title>
<style>
body { margin: 1.5rem; color: #222; background: #fff; font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main > div { margin: 2rem 0; }
main > .vega-embed { display: block; overflow-x: auto; }
</style>
<script>
(() => {
VEGA
})();
</script>
</head>
<body>
<main>
<h1>Plots of the Batch Normalization laboratory</h1>
{plot_divs}
</main>
</body>
</html>
"""


def main() -> None:
    """Write the page to the path that is given, for DVC's `plots.html_template`."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.pages.plots", description=__doc__)
    parser.add_argument("page", type=Path, help="where to write it")
    with replacing(parser.parse_args().page) as path:
        path.write_text(make_page(), encoding="utf-8")


def make_page() -> str:
    """Give the page with Vega, Vega-Lite and Vega-Embed; their names do not mix with those of the plots' own scripts."""
    return PAGE.replace("VEGA", javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE))


if __name__ == "__main__":
    run(main)
