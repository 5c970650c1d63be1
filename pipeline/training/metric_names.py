"""The metrics of an epoch: the one list of their names. A metric more is a line here, and what computes it in `metrics`."""

TRAIN_EVAL_EXAMPLES = 10_000  # the training examples at the front, on which `train_eval_*` is measured

# Accuracies are shares of 1, losses cross-entropies in nats. Those below are measured in every trial, after every epoch.
EPOCH_METRICS = {
    "loss": "training loss as Keras prints it: the running mean in training mode, while the weights move",
    "accuracy": "training accuracy as Keras prints it",
    "val_loss": "validation loss in inference mode, with BN's moving averages",
    "val_accuracy": "validation accuracy in inference mode, with BN's moving averages",
    "train_eval_loss": "loss on the first training images, in inference mode",
    "train_eval_accuracy": "accuracy on the first training images, in inference mode",
}
# Measured where there is Batch Normalization, with other statistics in place of its moving averages.
BATCH_NORM_METRICS = {
    "val_loss_recalibrated": "validation loss with mean and variance of the first training images, layer by layer",
    "val_accuracy_recalibrated": "validation accuracy with mean and variance of the first training images, layer by layer",
    "train_eval_loss_recalibrated": "loss on the first training images with their own mean and variance",
    "train_eval_accuracy_recalibrated": "accuracy on the first training images with their own mean and variance",
    "val_loss_batch_statistics": "validation loss with the mean and variance of each validation batch",
    "val_accuracy_batch_statistics": "validation accuracy with the mean and variance of each validation batch",
    "val_loss_unbiased": "validation loss with Bessel's correction of the moving variances",
    "val_accuracy_unbiased": "validation accuracy with Bessel's correction of the moving variances",
}
VARIANCE_RATIO = "variance_ratio_{}"  # of the i-th normaliser: its moving variance over the recalibrated one, means over units
FURTHER_MOMENTUM = "val_{}_momentum_{:g}"  # loss or accuracy with a further moving average
RECALIBRATED_ON = "val_{}_recalibrated_{}"  # loss or accuracy with statistics of so many training images
