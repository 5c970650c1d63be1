"""All that decides the bits of a trial, and nothing else: its configuration, network, optimizer, seeds, loop and result.

The trial key hashes the code of this room as a whole: any change here, other than to comments and docstrings, retrains
everything. The room may call `images` for arrays and `common`; it knows nothing of studies, workers, MLflow or reports.
"""
