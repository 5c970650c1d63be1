"""Columns of the tables that the stages `timing` and `mechanisms` write."""

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
