"""Every tag and metric name that the project writes to MLflow, and the tags of every trial.

`pipeline.training.metric_names` lists the metrics of an epoch; the selections below pick from that list.
"""

EXPERIMENT = "cifar10-batch-norm"

# Tags of runs. KIND has one of the values in its line.
KIND, TRIAL, EVALUATION, REPORT, VERDICTS = "kind", "trial", "evaluation", "report", "verdicts"
TRIAL_KEY = "trial_key"
STUDY = "study"  # every study that uses the trial, joined by commas
ARM = "arm"
DATA_MD5 = "data_md5"
CODE = "code"  # the trial key's hash of the code
CLAIMS = "claims"  # every claim that the trial speaks to, joined by commas
HOST = "host"  # the machine of the worker
DRIVER = "driver"  # the process that writes the run
DVC_STAGE = "dvc.stage"
DVC_EXPERIMENT = "dvc.experiment"
GIT_COMMIT = "mlflow.source.git.commit"
GIT_DIRTY = "git.dirty"
NOTE = "mlflow.note.content"  # of an experiment too
SOURCE = "mlflow.source.name"  # the one tag that the UI's table shows from the start
USER = "mlflow.user"
PARENT_RUN = "mlflow.parentRunId"
DATA_CONTEXT = "mlflow.data.context"  # of a run's data set

# Tags of the experiment.
EXPERIMENT_KIND = "mlflow.experimentKind"
NOTE_SHA256 = "note.sha256"
VIEW = "mlflow.sharedViewState.{}"

# Tags of a registered model's version, beside ARM, TRIAL_KEY and DATA_MD5.
IDENTITY = "identity"
SEED = "seed"
FORM = "form"
GATE = "gate"
ARM_SEEDS, ARM_MEAN, ARM_SD = "arm_seeds", "arm_val_accuracy_mean", "arm_val_accuracy_sd"

# Metrics: seconds of an epoch with its evaluation, summaries of a trial, and those of other runs and of models.
EPOCH_SECONDS = "epoch_seconds"
BEST_VAL_ACCURACY, BEST_VAL_EPOCH = "best_val_accuracy", "best_val_epoch"
DIVERGED = "diverged"
TEST_ACCURACY, TEST_LOSS = "test_accuracy", "test_loss"
ARM_TEST_METRIC = "{}_test_{}"  # arm; accuracy or loss, mean over seeds
EFFECT = "effect_{}"  # claim
REPORTED = "report_{}_{}"  # arm; val_accuracy or test_accuracy, mean over seeds

# Metrics of an epoch: VAL_ACCURACY chooses the best epoch and the best model; the others are those that the UI shows first.
VAL_ACCURACY = "val_accuracy"
LAST_METRICS = (VAL_ACCURACY, "val_accuracy_recalibrated", "val_loss", "train_eval_accuracy")
CURVES = (VAL_ACCURACY, "val_accuracy_recalibrated", "train_eval_accuracy", "val_loss", "val_loss_recalibrated", "train_eval_loss")
PARALLEL = ("val_loss", VAL_ACCURACY, "train_eval_accuracy")
RECALIBRATED = "_recalibrated"  # the end of the names of what has no value without Batch Normalization


def trial_tags(key: str, study: str, arm: str, data_md5: str, code: str, host: str) -> dict[str, str]:
    """Return what the run of every trial is tagged with. A further tag is one line here, and makes nothing stale."""
    return {
        TRIAL_KEY: key,
        STUDY: study,
        ARM: arm,
        DATA_MD5: data_md5,
        CODE: code,
        HOST: host,
    }
