"""The claims laboratory: what the notebook says of Batch Normalization, measured, with a verdict for each sentence."""
