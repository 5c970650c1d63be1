"""Optimizers with their learning-rate schedules; Adam as one fused pass over the parameters."""

import keras
import tensorflow as tf

from pipeline.training.config import TrainingConfig, updates_per_epoch


class FusedAdam(keras.optimizers.Adam):  # type: ignore[misc]  # Keras carries no types
    """Keras Adam with each variable updated by one kernel instead of a dozen.

    Keras's update reads and writes every parameter-sized array several times, which costs more than the network's
    matrix products. The kernel computes the same formula (Kingma & Ba 2015, the "epsilon hat" form) in one pass.
    """

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


def build_optimizer(config: TrainingConfig, examples: int) -> keras.optimizers.Optimizer:
    """Return the optimizer of a configuration, for a training set of `examples` images.

    `weight_decay` is Keras's, decoupled from the gradient (Loshchilov & Hutter 2019); `cosine` falls to 0 over the whole
    trial (Loshchilov & Hutter 2017), `exponential` multiplies the rate by `learning_rate_decay` after each epoch.
    """
    weight_decay = config.weight_decay or None  # None leaves Keras's update as it is
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = config.learning_rate
    if config.learning_rate_schedule == "cosine":
        learning_rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.total_updates(examples))
    elif config.learning_rate_schedule == "exponential":
        updates = updates_per_epoch(examples, config.batch_size)
        learning_rate = keras.optimizers.schedules.ExponentialDecay(
            config.learning_rate, updates, config.learning_rate_decay, staircase=True
        )
    if config.optimizer == "adam":
        return FusedAdam(learning_rate, weight_decay=weight_decay)
    return keras.optimizers.SGD(learning_rate, momentum=config.sgd_momentum, weight_decay=weight_decay)
