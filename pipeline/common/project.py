"""Where the project is to which a process belongs, wherever that process runs."""

import os
from pathlib import Path


def project_root() -> Path:
    """The folder of the project: DVC_ROOT, or the working directory of a command that DVC did not start.

    `dvc exp run --temp` and the workers of `dvc queue` run in copies below `.dvc/tmp/exps`, which are removed afterwards;
    DVC_ROOT is then the project that they were copied from, so that its store and its locks are used.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
