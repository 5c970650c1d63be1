"""A stage that trains: it completes one cell of a study and writes its tables and weights."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.common.statistics import summarize
from pipeline.images.arrays import data_md5, load_examples
from pipeline.training.result import diverged
from pipeline.trials.execution import Trial, complete, forget, open_ledger, trials_after, trials_of
from pipeline.trials.key import TrialKeys
from pipeline.trials.parameters import load_parameters
from pipeline.trials.studies import Level
from pipeline.workers.local import call_in_worker
from pipeline.workers.lock import alone_with_trials
from pipeline.workers.work import result_of


def run_cell(study: str, arm: str, level: Level, output: Path) -> None:
    """Write the history, metrics and weights of one arm at one level, over the study's seeds, to the folder `output`.

    Raises:
        PipelineError: The study, arm or level is not declared in params.yaml, data is missing, the tracking store is out of
            reach, or a trial failed. Finished trials are kept and not run again.
    """
    parameters, keys, cell = load_parameters(), TrialKeys(data_md5()), (study, arm, level)
    if cell not in list(parameters.cells()):
        raise PipelineError(f"params.yaml: studies.{study}: has no arm '{arm}' at level {level}, which this stage needs; declare it there")
    trials = trials_of(parameters, cell, keys)
    with alone_with_trials(), open_ledger(parameters.runner) as ledger:
        run_ids = complete(ledger, trials, ahead=trials_after(parameters, cell, keys), runner=parameters.runner)
        if parameters.studies[study].log_models:
            # Here, since they import TensorFlow.
            from pipeline.training import quiet_tensorflow  # noqa: F401, I001 - first, so that TensorFlow starts without a word
            from pipeline.tracking.models import log_models

            models = {run_ids[key]: (trial.config, result_of(key).weights.resolve()) for key, trial in trials.items()}
            missing = {run_id: model for run_id, model in models.items() if not ledger.has_model(run_id)}
            if missing:
                train = load_examples("train")
                call_in_worker(log_models, ledger.tracking_uri, missing, train.image_shape, len(train.classes))
        histories = {key: result_of(key).read_history() for key in trials}
        with replacing(output) as temporary:
            (temporary / "weights").mkdir(parents=True)
            table = pd.concat([with_labels(trials[key], history) for key, history in histories.items()])
            table.to_csv(temporary / "history.csv", index=False)
            # Mean, sample SD and n over seeds of each metric's last value, diverged trials apart.
            finished = [history.iloc[-1] for history in histories.values() if not diverged(history)]
            last = pd.DataFrame(finished).drop(columns="epoch", errors="ignore")
            metrics = {**{str(name): asdict(summarize(last[name])) for name in last}, "diverged": len(histories) - len(finished)}
            (temporary / "metrics.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            for key, trial in trials.items():
                shutil.copyfile(result_of(key).weights, temporary / "weights" / f"seed-{trial.config.seed}.weights.h5")
        forget(trials)


def with_labels(trial: Trial, table: pd.DataFrame) -> pd.DataFrame:
    """Return a trial's table with what tells it from the others of its study: arm, batch size, level and seed. A list is text."""
    level = {name: str(value) if isinstance(value, list) else value for name, value in trial.level.items()}
    labels = {"arm": trial.arm, "batch_size": trial.config.batch_size, **level, "seed": trial.config.seed}
    return pd.concat([pd.DataFrame(labels, index=table.index), table], axis=1)
