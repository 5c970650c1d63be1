"""Stage `fetch`: get the data set from the first source that gives exactly the published files, into data/raw."""

import argparse

from pipeline.common.command import run
from pipeline.common.parameters import read_sections
from pipeline.images.dataset import RAW
from pipeline.images.parameters import DataSection
from pipeline.images.sources import fetch


def main() -> None:
    """Read params.yaml and make data/raw."""
    argparse.ArgumentParser(prog="python -m pipeline.fetch", description=__doc__).parse_args()
    fetch(read_sections(DataSection).data, RAW)


if __name__ == "__main__":
    run(main)
