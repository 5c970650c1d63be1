"""The two studies of the notebook, which the stages of dvc.yaml train and the report compares."""

BASELINE = "baseline"
BATCH_NORM = "batch_norm"
TRAIN = "train"
GRID = "batch_size_grid"
NORMALIZATION = {BASELINE: "none", BATCH_NORM: "batch"}
