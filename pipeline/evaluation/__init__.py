"""The test set: what the trained networks predict on it, how good that is, and two reference classifiers for scale.

The room decides every file of results/evaluate. It may call `trials`, `training`, `images` and `common`; it knows nothing of
reports, MLflow or the registry of models.
"""
