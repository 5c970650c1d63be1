"""How a process must be set up for reproducible bits, whatever the user's own settings say."""

import keras
import tensorflow as tf


def compute_deterministically() -> None:
    """Set TensorFlow to one thread and reproducible kernels, and Keras to the defaults that the networks rely on.

    Call it before TensorFlow's first operation. A user's `keras.json` may name other defaults.
    """
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)  # else the first worker would take all of its memory
