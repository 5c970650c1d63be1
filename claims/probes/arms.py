"""The two arms that are timed and probed, and their networks in worker processes."""

from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from claims.paths import CLAIMS_FILE
from claims.probes.parameters import Mechanisms, Timing
from claims.probes.tables import MECHANISM_COLUMNS
from pipeline.common.errors import PipelineError
from pipeline.common.parameters import PARAMETERS_FILE, Sections, explain, read_sections
from pipeline.images.arrays import PROCESSED, load_examples
from pipeline.training.config import TrainingConfig, TrialConfig
from pipeline.trials.notebook import BASELINE, BATCH_NORM
from pipeline.workers.local import call_in_worker, worker_count

ARMS = (BASELINE, BATCH_NORM)

Rows = dict[str, list[dict[str, Any]]]  # by table


class _ArmSections(Sections):
    trial: TrainingConfig
    arms: dict[str, dict[str, Any]]


def read_arms(seed: int, **changes: Any) -> dict[str, TrialConfig]:  # noqa: ANN401 - any setting of a trial
    """Read both arms of params.yaml, with these changes to their settings.

    Raises:
        PipelineError: The file is missing, is not YAML, lacks an arm or holds a wrong key or value.
    """
    sections = read_sections(_ArmSections)
    configs = {}
    for arm in ARMS:
        if arm not in sections.arms:
            raise PipelineError(f"{PARAMETERS_FILE}: arms.{arm}: missing; timing and mechanisms are about it; declare it")
        try:
            configs[arm] = TrialConfig.model_validate({**sections.trial.model_dump(), **sections.arms[arm], **changes, "seed": seed})
        except ValidationError as error:
            raise PipelineError(explain(error, f"{PARAMETERS_FILE}: arms.{arm}.")) from None
    return configs


def time_arms(configs: dict[str, TrialConfig], timing: Timing) -> pd.DataFrame:
    """Return the table of `claims.probes.timing.measure_times`, made in one worker process."""
    # The folder is absolute: a worker stays where the first one was started.
    table: pd.DataFrame = call_in_worker(_time, configs, timing, PROCESSED.resolve())
    return table


def _time(configs: dict[str, TrialConfig], timing: Timing, processed: Path) -> pd.DataFrame:
    from claims.probes.timing import measure_times  # here, not above: only workers need TensorFlow

    return measure_times(configs, timing, load_examples("train", processed))


def probe_arms(configs: dict[str, TrialConfig], mechanisms: Mechanisms) -> dict[str, pd.DataFrame]:
    """Train each arm in a worker process of its own, with one thread, and return the tables of both by name.

    Raises:
        PipelineError: Data is missing, or there are fewer images than the largest batch size.
    """
    images, largest, there = mechanisms.images, max(mechanisms.batch_sizes), len(load_examples("validation", PROCESSED).labels)
    if images > there:
        raise PipelineError(f"{CLAIMS_FILE}: mechanisms.images: {images:,} asked for, and the validation set has {there:,}; ask for fewer")
    if largest > images:
        raise PipelineError(f"{CLAIMS_FILE}: mechanisms.batch_sizes: {largest:,} is more than mechanisms.images, {images:,}; lower it")
    # The threads of this pool are daemons, unlike those of concurrent.futures: Ctrl-C does not wait for the workers.
    with ThreadPool(min(len(configs), worker_count())) as threads:
        calls = [(_probe, arm, config, mechanisms, PROCESSED.resolve()) for arm, config in configs.items()]
        of_arms: list[Rows] = threads.starmap(call_in_worker, calls, chunksize=1)
    rows = {name: [row for rows in of_arms for row in rows.get(name, [])] for name in MECHANISM_COLUMNS}
    return {name: pd.DataFrame(rows[name], columns=columns) for name, columns in MECHANISM_COLUMNS.items()}


def _probe(arm: str, config: TrialConfig, mechanisms: Mechanisms, processed: Path) -> Rows:
    from claims.probes.probed_training import probe_training  # here, not above: only workers need TensorFlow
    from pipeline.training.network import build_model

    train, validation = load_examples("train", processed), load_examples("validation", processed)
    model = build_model(config, config.seed, train.image_shape, len(train.classes))
    return probe_training(arm, model, config, mechanisms, train, validation)
