"""The tables that the stages `timing` and `mechanisms` write."""

from collections import defaultdict

import pandas as pd

from claims.paths import RESULTS, remedy
from pipeline.common.tables import read_table

TIMING, MECHANISMS = RESULTS / "timing.csv", RESULTS / "mechanisms"
TIMING_COLUMNS = ["what", "arm", "block", "milliseconds"]
MECHANISM_COLUMNS = {
    "drift": ["arm", "step", "layer", "mean_shift", "log_sd_shift"],
    "gradient_shift": ["arm", "step", "layer", "relative_change", "cosine"],
    "landscape": ["arm", "step", "direction", "distance_factor", "loss", "gradient_change", "effective_smoothness"],
    "units": ["arm", "step", "layer", "dead", "nearly_dead", "always_on"],
    "discrepancy": [
        "batch_size", "step", "accuracy_training_mode", "accuracy_inference_mode", "divergence", "layer", "rms_ratio", "theory",
    ],
    "working_principle": ["check", "layer", "largest_error", "tolerance", "passes"],
}  # fmt: skip
TEXT, WHOLE_NUMBERS = ("what", "arm", "direction", "check", "passes"), ("block", "step", "batch_size")
DTYPES = defaultdict(lambda: "float64", dict.fromkeys(TEXT, "str") | dict.fromkeys(WHOLE_NUMBERS, "int64"))


def read_timing() -> pd.DataFrame:
    """Read the milliseconds of every block.

    Raises:
        PipelineError: The table is missing, or not as its stage writes it.
    """
    return read_table(TIMING, TIMING_COLUMNS, remedy("timing"), DTYPES)


def read_mechanism(name: str) -> pd.DataFrame:
    """Read the table of a probe.

    Raises:
        PipelineError: It is missing, or not as its stage writes it.
    """
    return read_table(MECHANISMS / f"{name}.csv", MECHANISM_COLUMNS[name], remedy("mechanisms"), DTYPES)
