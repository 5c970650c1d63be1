"""DVC stages `train` and `batch_size_grid`: train one arm of a study at one level, over all seeds."""

import argparse
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.common.command import run
from pipeline.training.environment import write_environment
from pipeline.trials.cells import run_cell


def main() -> None:
    """Write results/<study>/<cell>/, and results/environment/<study>/<cell>.json beside it."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.train", description=__doc__)
    parser.add_argument("study", help="a study of params.yaml")
    parser.add_argument("arm", help="an arm of the study")
    parser.add_argument("level", nargs="*", metavar="NAME=VALUE", help="a value for each parameter of the study's grid")
    arguments = parser.parse_args()
    level = {name: YAML(typ="safe").load(value) for name, _, value in (text.partition("=") for text in arguments.level)}
    cell = Path(arguments.study) / ("-".join(map(str, level.values())) or arguments.arm)  # a study with a grid has one arm
    run_cell(arguments.study, arguments.arm, level, Path("results") / cell)
    write_environment(Path("results/environment") / f"{cell}.json")


if __name__ == "__main__":
    run(main)
