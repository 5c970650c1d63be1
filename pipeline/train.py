"""DVC stage `train`: one of the notebook's two models, over all seeds."""

import argparse
from pathlib import Path

from pipeline.common.command import run
from pipeline.training.environment import write_environment
from pipeline.trials.notebook import TRAIN
from pipeline.trials.study import run_cell


def main() -> None:
    """Read the arm from the command line and write results/train/<arm>/ and its environment."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.train", description=__doc__)
    parser.add_argument("arm", help="an arm of studies.train in params.yaml")
    arm = parser.parse_args().arm
    run_cell(TRAIN, arm, {}, Path("results/train") / arm)
    write_environment(Path("results/environment/train") / f"{arm}.json")


if __name__ == "__main__":
    run(main)
