"""DVC stage `batch_size_grid`: fresh models at one batch size, over all seeds."""

import argparse
from pathlib import Path

from pipeline.common.command import run
from pipeline.training.environment import write_environment
from pipeline.trials.notebook import BATCH_NORM, GRID
from pipeline.trials.study import run_cell


def main() -> None:
    """Read the batch size from the command line and write results/batch_size_grid/<size>/ and its environment."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.batch_size_grid", description=__doc__)
    parser.add_argument("batch_size", type=int, help="a batch size of studies.batch_size_grid in params.yaml")
    batch_size = parser.parse_args().batch_size
    run_cell(GRID, BATCH_NORM, {"batch_size": batch_size}, Path("results/batch_size_grid") / str(batch_size))
    write_environment(Path("results/environment/batch_size_grid") / f"{batch_size}.json")


if __name__ == "__main__":
    run(main)
