"""Gives trials their results: read back from the ledger, or trained and logged there."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.command import interrupted_afterwards
from pipeline.common.errors import PipelineError
from pipeline.common.files import remove
from pipeline.images.arrays import PROCESSED, load_examples
from pipeline.tracking.names import trial_tags
from pipeline.tracking.provenance import stage_tags
from pipeline.training.config import TrialConfig
from pipeline.trials.key import TrialKeys, code_fingerprint
from pipeline.trials.parameters import Parameters, RunnerName
from pipeline.trials.studies import Cell, Level
from pipeline.workers.events import EpochEnded, Event, Finished, Interrupted, Started
from pipeline.workers.local import LocalPool, warm_up
from pipeline.workers.pool import WorkerPool, run_trials
from pipeline.workers.progress import TrialProgress
from pipeline.workers.work import FINISHED_TRIALS, result_of

if TYPE_CHECKING:
    from pipeline.tracking.ledger import Ledger  # imported where it is used, since that takes half as long as TensorFlow's import

AHEAD = 200  # trials of later cells that are looked up before a cell begins: seconds, where there may be a hundred thousand


@dataclass(frozen=True)
class Trial:
    """A trial as a study names it, with its configuration."""

    study: str
    arm: str
    level: Level
    config: TrialConfig
    data_md5: str

    @property
    def name(self) -> str:
        """Readable name, such as `batch_norm-b64-s0`. A study's other levels stand in the middle."""
        level = [f"{name}={value}" for name, value in self.level.items() if name != "batch_size"]
        return "-".join([self.arm, f"b{self.config.batch_size}", *level, f"s{self.config.seed}"])

    @property
    def note(self) -> str:
        """Description of its run, in Markdown."""
        level = "".join(f", {name} {value}" for name, value in self.level.items() if name != "batch_size")
        return (
            f"One training of arm **{self.arm}** at batch size {self.config.batch_size}{level}, seed {self.config.seed}, "
            f"first asked for by study `{self.study}`.\n\n"
            "Steps are epochs. `history.csv` has every metric of every epoch, `model.weights.h5` the weights after the last."
        )


Trials = Mapping[str, Trial]  # by trial key


def trials_of(parameters: Parameters, cell: Cell, keys: TrialKeys) -> dict[str, Trial]:
    """Return the trials of a cell, one for each of the study's seeds."""
    study, arm, level = cell
    configs = [parameters.trial_config(arm, level, seed) for seed in parameters.studies[study].seeds]
    return {keys.of(config): Trial(study, arm, level, config, keys.data_md5) for config in configs}


def trials_after(parameters: Parameters, cell: Cell, keys: TrialKeys) -> dict[str, Trial]:
    """Return AHEAD trials, or a few more, of the cells declared after this one, for workers that have nothing else to do."""
    cells = list(parameters.cells())
    trials: dict[str, Trial] = {}
    for later in cells[cells.index(cell) + 1 :]:
        if len(trials) >= AHEAD:
            break
        trials = trials_of(parameters, later, keys) | trials  # a trial that studies share belongs to the first
    return trials


def open_ledger(runner: RunnerName) -> Ledger:
    """Connect to the ledger. Meanwhile TensorFlow is imported for the workers of this machine."""
    if runner == "local":
        warm_up()
    from pipeline.tracking.ledger import Ledger

    return Ledger()


def complete(ledger: Ledger, trials: Trials, *, runner: RunnerName, ahead: Trials | None = None) -> dict[str, str]:
    """Bring every trial's result to disk and into the ledger, and return the run ids by trial key.

    Workers with nothing else to do train trials of `ahead` meanwhile; those are logged too.

    Raises:
        PipelineError: A trial asks for more training images than there are, or a trial failed; finished trials are kept.
    """
    images = len(load_examples("train").labels)
    for trial in trials.values():
        asked = trial.config.training_images
        if asked != "all" and asked > images:
            raise PipelineError(f"{trial.name}: training_images: {asked:,} asked for, and the training set has {images:,}; ask for fewer")
    run_ids: dict[str, str] = {}
    if ledger.is_on:
        finished = ledger.find(trials)
        for key, trial in trials.items():
            run, result = finished.get(key), result_of(key)
            if run is not None and (result.is_whole() or ledger.read_back(run, result)):
                ledger.add_study(run, trial.study)
                run_ids[key] = run.info.run_id
    else:
        ahead = None  # nobody would read back what was trained ahead
        forget(trials)
    missing = {key: trial for key, trial in trials.items() if key not in run_ids}
    if run_ids:
        print(f"{len(run_ids)} of {len(trials)} trials are in the ledger already")
    return run_ids | _run(ledger, missing, ahead or {}, runner) if missing else run_ids


def forget(trials: Iterable[str]) -> None:
    """Remove the local results of the trials with these keys."""
    for key in trials:
        remove(result_of(key).folder)
    with suppress(OSError):
        FINISHED_TRIALS.rmdir()  # once it is empty


def open_pool(runner: RunnerName, trials: int, processed: Path = PROCESSED, results: Path = FINISHED_TRIALS) -> WorkerPool:
    """Start workers for so many trials, on this machine or on the cluster."""
    if runner == "ray":
        from pipeline.cluster.ray_pool import RayPool  # here, since Ray is an extra

        return RayPool(processed, results)
    return LocalPool(trials, processed, results)


def _run(ledger: Ledger, trials: Trials, ahead: Trials, runner: RunnerName) -> dict[str, str]:
    done = {key for key in ahead if result_of(key).is_whole()} | ledger.find(ahead).keys() | trials.keys()
    ahead = {key: trial for key, trial in ahead.items() if key not in done}
    recorder = _Recorder(ledger, {**ahead, **trials})
    # A result that an earlier process could not log any more is logged now.
    unlogged = [key for key in trials if result_of(key).is_whole()]
    for key in unlogged:  # nobody knows how long their epochs took
        rows = result_of(key).read_history().to_dict("records")
        epochs = [EpochEnded(key, {str(name): value for name, value in row.items()}, None) for row in rows]
        recorder.record([Started(key, platform.node()), *epochs, Finished(key, result_of(key))])
    configs = {key: trial.config for key, trial in trials.items() if key not in unlogged}
    ahead_configs = {key: trial.config for key, trial in ahead.items()}
    names = {key: trial.name for key, trial in recorder.trials.items()}
    try:
        with (
            TrialProgress(names, configs, ahead_configs) as progress,
            closing(open_pool(runner, len(configs) + len(ahead))) as pool,
            closing(run_trials(pool, configs, ahead=ahead_configs, names=names)) as batches,
        ):
            for events in batches:
                recorder.record(events)
                for event in events:
                    progress.show(event)
    except BaseException as error:
        ledger.end_early(recorder.open_runs.values(), "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    forget(ahead)
    return recorder.finished_runs


@dataclass
class _Recorder:
    """Writes the events of trials into their runs."""

    ledger: Ledger
    trials: Trials
    # Taken once, as the trial keys are: what is edited while trials run must not be said to have made them.
    stage_tags: dict[str, str] = field(default_factory=stage_tags)
    code: str = field(default_factory=code_fingerprint)
    open_runs: dict[str, str] = field(default_factory=dict)
    finished_runs: dict[str, str] = field(default_factory=dict)

    def record(self, events: Iterable[Event]) -> None:
        """Log events. Epochs of a trial that came together are logged together."""
        epochs: dict[str, list[EpochEnded]] = {}
        for event in events:
            if isinstance(event, EpochEnded):
                epochs.setdefault(event.key, []).append(event)
                continue
            self._log_epochs(epochs.pop(event.key, []))
            # Broken off in the middle, a run would be open that nobody knows of, or a sqlite store stay locked.
            with interrupted_afterwards():
                match event:
                    case Started(key, host):
                        trial = self.trials[key]
                        tags = {**trial_tags(key, trial.study, trial.arm, trial.data_md5, self.code, host), **self.stage_tags}
                        self.open_runs[key] = self.ledger.start(trial.name, trial.config, tags, trial.note)
                    case Interrupted(key):
                        if key in self.open_runs:
                            self.ledger.end_early([self.open_runs.pop(key)], "FAILED")
                    case Finished(key, result):
                        self.ledger.finish(self.open_runs[key], result)
                        self.finished_runs[key] = self.open_runs.pop(key)
        for of_one_trial in epochs.values():
            self._log_epochs(of_one_trial)

    def _log_epochs(self, epochs: list[EpochEnded]) -> None:
        if epochs:
            with interrupted_afterwards():
                self.ledger.log_epochs(self.open_runs[epochs[0].key], [(epoch.metrics, epoch.seconds) for epoch in epochs])
