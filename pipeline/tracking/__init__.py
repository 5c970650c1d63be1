"""All that the project writes to MLflow about runs, and reads from it: the ledger of trials, its store, and the views of the UI.

The room decides no result: an edit here makes nothing stale. `names` holds every tag and metric name. The room may call
`training` and `common`.
"""
