"""One training run with overrides, logged to MLflow: the entry point `trial` of the MLproject."""

import argparse
import os

from pydantic import ValidationError

from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.parameters import explain
from pipeline.images.arrays import data_md5
from pipeline.trials.execution import Trial, complete, forget, open_ledger
from pipeline.trials.key import trial_key
from pipeline.trials.parameters import load_parameters
from pipeline.workers.lock import alone_with_trials
from pipeline.workers.work import result_of


def main() -> None:
    """Complete one trial and print its last epoch's metrics."""
    project_run, parameters = os.environ.get("MLFLOW_RUN_ID"), load_parameters()
    parser = argparse.ArgumentParser(prog="python -m pipeline.one_trial", description=__doc__)
    parser.add_argument("--model", default="batch_norm", help="an arm of params.yaml (default: %(default)s)")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    arm, seed = arguments.pop("model"), arguments.pop("seed")
    if arm not in parameters.arms:
        raise PipelineError(f"--model: '{arm}' is not an arm of params.yaml; choose from {', '.join(parameters.arms)}")
    usual = parameters.trial_config(arm, {}, seed=0)
    level = {field: value for field, value in arguments.items() if value not in (None, getattr(usual, field))}
    try:
        config = parameters.trial_config(arm, level, seed)
    except ValidationError as error:
        raise PipelineError(explain(error, "command line: ")) from None
    trial = Trial("single_trial", arm, level, config, data_md5())
    key = trial_key(config, trial.data_md5)
    with alone_with_trials(), open_ledger(parameters.runner) as ledger:
        complete(ledger, {key: trial}, runner=parameters.runner)
        last_epoch = {str(name): float(value) for name, value in result_of(key).read_history().iloc[-1].items()}
        forget([key])
        print(f"{trial.name}:", ", ".join(f"{name} {value:.4g}" for name, value in last_epoch.items()))
        if project_run:
            ledger.log_summary(project_run, last_epoch)


if __name__ == "__main__":
    run(main)
