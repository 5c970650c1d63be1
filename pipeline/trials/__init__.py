"""Studies of trials: what they are, the key of each trial, and how a study gets its results, from MLflow or by training.

It decides which trials a stage's output holds and in which tables. It may call `cluster`, `workers`, `tracking`, `training`,
`images` and `common`.
"""
