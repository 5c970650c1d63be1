"""Imports TensorFlow without the banner that it prints on every start and that no setting turns off.

Import this module first. An import that fails still raises; messages after the import are not touched.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no notes on CPU features; errors stay
os.environ["KERAS_BACKEND"] = "tensorflow"  # a user's variable or keras.json may name another


@contextmanager
def nothing_on_stderr() -> Iterator[None]:
    """Drop what is written to the process's standard error, also by C++; Python exceptions pass."""
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)  # the banner comes from C++, below sys.stderr
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


with nothing_on_stderr():
    import keras
    import tensorflow as tf

tf.get_logger().setLevel("ERROR")  # it warns of functions compiled anew, which every trial means to do
keras.utils.disable_interactive_logging()  # workers share one terminal, and the progress display has it
