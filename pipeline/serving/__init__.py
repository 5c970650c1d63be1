"""From trained weights to a served model: which trial is served, in which form, in MLflow's registry and by MLflow's server.

The room decides no table and no prediction of a stage, but for `folding`, which claims time and probe. It may call `pages`,
`trials`, `tracking`, `training`, `images` and `common`.
"""
