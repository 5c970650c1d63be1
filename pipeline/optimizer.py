"""Optimizers by name; Adam as one fused pass over the parameters."""

import keras
import tensorflow as tf

from pipeline.trial_config import TrainingConfig


class FusedAdam(keras.optimizers.Adam):  # type: ignore[misc]  # Keras carries no types
    """Keras Adam with each variable updated by one kernel instead of a dozen.

    Keras's update reads and writes every parameter-sized array several times, which costs more than the network's
    matrix products. The kernel computes the same formula (Kingma & Ba 2015, the "epsilon hat" form) in one pass.
    """

    def __init__(self, learning_rate: float) -> None:
        super().__init__(learning_rate)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Update one variable and its two moments in place."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def build_optimizer(config: TrainingConfig) -> keras.optimizers.Optimizer:
    """Make the optimizer that the configuration names, at its learning rate."""
    optimizers = {"adam": FusedAdam, "sgd": keras.optimizers.SGD}
    return optimizers[config.optimizer](learning_rate=config.learning_rate)
