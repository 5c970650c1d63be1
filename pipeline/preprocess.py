"""Stage `preprocess`: split the data set into memory-mappable arrays under data/processed, and profile them."""

import argparse
import json

from pipeline.common.command import run
from pipeline.common.files import replacing
from pipeline.common.parameters import read_sections
from pipeline.images.arrays import PROCESSED, save_examples
from pipeline.images.datasets import DATASETS
from pipeline.images.parameters import SplitSection
from pipeline.images.splits import profile_splits, split_examples


def main() -> None:
    """Read params.yaml and data/raw, and write data/processed."""
    argparse.ArgumentParser(prog="python -m pipeline.preprocess", description=__doc__).parse_args()
    parameters = read_sections(SplitSection)
    dataset, split = DATASETS[parameters.data.dataset], parameters.split
    splits = split_examples(dataset.read_examples(dataset.train_files), dataset.read_examples([dataset.test_file]), split)
    for name, examples in splits.items():
        with replacing(PROCESSED / name) as folder:
            folder.mkdir()
            save_examples(examples, folder)
    described = {field: getattr(dataset, field) for field in ("name", "title", "home", "citation")}
    profile = {"dataset": described, "split": split.model_dump(), **profile_splits(splits)}
    with replacing(PROCESSED / "profile.json") as path:
        path.write_text(json.dumps(profile, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
