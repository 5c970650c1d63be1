"""Gives one cell of a study (an arm at one level, all seeds) its results: from the ledger, or by running trials."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.common.command import interrupted_afterwards
from pipeline.common.errors import PipelineError
from pipeline.common.files import remove, replacing
from pipeline.common.statistics import summarize
from pipeline.images.arrays import data_md5, load_examples
from pipeline.tracking.provenance import stage_tags
from pipeline.training.config import TrialConfig
from pipeline.training.result import diverged
from pipeline.trials.key import TrialKeys, code_fingerprint
from pipeline.trials.parameters import Parameters, RunnerName, load_parameters
from pipeline.trials.runner import run_trials
from pipeline.trials.studies import Cell
from pipeline.workers.events import EpochEnded, Event, Finished, Interrupted, Started
from pipeline.workers.local import call_in_worker, warm_up
from pipeline.workers.lock import alone_with_trials
from pipeline.workers.progress import TrialProgress
from pipeline.workers.work import FINISHED_TRIALS, result_of

if TYPE_CHECKING:
    from pipeline.tracking.store import Ledger


AHEAD = 200  # trials of later cells that are looked up before a cell begins: seconds, where there may be a hundred thousand


@dataclass(frozen=True)
class Trial:
    """A trial as a study sees it: its configuration, and what it is called there."""

    study: str
    arm: str
    level: dict[str, Any]
    config: TrialConfig
    data_md5: str

    @property
    def name(self) -> str:
        """Readable name, such as `batch_norm-b64-s0`; a study's other levels stand in the middle."""
        level = [f"{name}={value}" for name, value in self.level.items() if name != "batch_size"]
        return "-".join([self.arm, f"b{self.config.batch_size}", *level, f"s{self.config.seed}"])

    @property
    def note(self) -> str:
        """What its run's page says of it, in Markdown."""
        level = "".join(f", {name} {value}" for name, value in self.level.items() if name != "batch_size")
        return (
            f"One training of arm **{self.arm}** at batch size {self.config.batch_size}{level}, seed {self.config.seed}, "
            f"first asked for by study `{self.study}`.\n\n"
            "Steps are epochs. `history.csv` has every metric of every epoch, `model.weights.h5` the weights after the last."
        )

    @property
    def tags(self) -> dict[str, str]:
        """What its run is tagged with, but for the trial key and the tags of the stage."""
        return {"arm": self.arm, "study": self.study, "data_md5": self.data_md5}


Trials = Mapping[str, Trial]  # by trial key


def run_cell(study: str, arm: str, level: dict[str, Any], output: Path) -> None:
    """Make `output`: the history, metrics and weights of one arm at one level, over the study's seeds.

    Raises:
        PipelineError: the study, arm or level is not declared in params.yaml, data is missing, the tracking store is
            out of reach, or a trial failed; finished trials are kept and not run again.
    """
    parameters, keys, cell = load_parameters(), TrialKeys(data_md5()), (study, arm, level)
    if cell not in list(parameters.cells()):
        raise PipelineError(f"params.yaml: studies.{study}: has no arm '{arm}' at level {level}, which this stage needs; declare it there")
    trials = trials_of(parameters, cell, keys)
    with alone_with_trials(), open_ledger(parameters.runner) as ledger:
        run_ids = complete(ledger, trials, ahead=trials_after(parameters, cell, keys), runner=parameters.runner)
        if parameters.studies[study].log_models:
            _log_missing_models(ledger, trials, run_ids)
        _write_cell(trials, output)
        forget(trials)


def trials_of(parameters: Parameters, cell: Cell, keys: TrialKeys) -> Trials:
    """Give the trials of a cell, one for each of the study's seeds."""
    study, arm, level = cell
    configs = [parameters.trial_config(arm, level, seed) for seed in parameters.studies[study].seeds]
    return {keys.of(config): Trial(study, arm, level, config, keys.data_md5) for config in configs}


def trials_after(parameters: Parameters, cell: Cell, keys: TrialKeys) -> Trials:
    """Give AHEAD trials, or a few more, of the cells declared after this one, for workers that have nothing else to do."""
    cells = list(parameters.cells())
    trials: dict[str, Trial] = {}
    for later in cells[cells.index(cell) + 1 :]:
        if len(trials) >= AHEAD:
            break
        for key, trial in trials_of(parameters, later, keys).items():
            trials.setdefault(key, trial)  # a trial that studies share belongs to the first
    return trials


@contextmanager
def open_ledger(runner: RunnerName) -> Iterator[Ledger]:
    """Connect to the ledger; meanwhile TensorFlow is imported for the workers of this machine."""
    if runner == "local":
        warm_up()
    from pipeline.tracking.store import Ledger  # here, since this import takes as long as half of TensorFlow's

    with Ledger() as ledger:
        yield ledger


def complete(ledger: Ledger, trials: Trials, *, runner: RunnerName, ahead: Trials | None = None) -> dict[str, str]:
    """See to it that every trial's result is on disk and in the ledger; return the run ids by trial key.

    Workers with nothing else to do take up trials of `ahead` meanwhile; what they finish is in the ledger too.

    Raises:
        PipelineError: a trial asks for more training images than there are.
    """
    _check_training_images(trials)
    if ledger.is_on:
        run_ids = _read_back(ledger, trials)
    else:
        run_ids, ahead = {}, None  # nobody would read back what was trained ahead
        forget(trials)
    missing = {key: trial for key, trial in trials.items() if key not in run_ids}
    if len(missing) < len(trials):
        print(f"{len(trials) - len(missing)} of {len(trials)} trials are in the ledger already")
    return run_ids | (_run(ledger, missing, ahead or {}, runner) if missing else {})


def _check_training_images(trials: Trials) -> None:
    there = len(load_examples("train").labels)
    for trial in trials.values():
        asked = trial.config.training_images
        if asked != "all" and asked > there:
            raise PipelineError(f"{trial.name}: training_images: {asked:,} asked for, and the training set has {there:,}; ask for fewer")


def forget(trials: Trials) -> None:
    """Remove the local results of these trials."""
    for key in trials:
        remove(result_of(key).folder)
    with suppress(OSError):
        FINISHED_TRIALS.rmdir()  # once it is empty


def _read_back(ledger: Ledger, trials: Trials) -> dict[str, str]:
    run_ids, finished = {}, ledger.find(trials)
    for key, trial in trials.items():
        run, result = finished.get(key), result_of(key)
        if run is not None and (result.is_whole() or ledger.read_back(run, result)):
            ledger.add_study(run, trial.study, trial.note)
            run_ids[key] = run.info.run_id
    return run_ids


def _run(ledger: Ledger, trials: Trials, ahead: Trials, runner: RunnerName) -> dict[str, str]:
    done = {key for key in ahead if result_of(key).is_whole()} | ledger.find(ahead).keys()
    ahead = {key: trial for key, trial in ahead.items() if key not in done | trials.keys()}
    recorder = _Recorder(ledger, {**ahead, **trials})
    # A result that an earlier process could not log any more is logged now.
    unlogged = [key for key in trials if result_of(key).is_whole()]
    for key in unlogged:
        recorder.record_at_once(key)
    configs = {key: trial.config for key, trial in trials.items() if key not in unlogged}
    ahead_configs = {key: trial.config for key, trial in ahead.items()}
    names = {key: trial.name for key, trial in recorder.trials.items()}
    try:
        with (
            TrialProgress(names, configs, ahead_configs) as progress,
            closing(run_trials(configs, ahead=ahead_configs, names=names, runner=runner)) as happenings,
        ):
            for events in happenings:
                recorder.record(events)
                for event in events:
                    progress.show(event)
    except KeyboardInterrupt:
        ledger.end_early(recorder.open_runs.values(), "KILLED")
        raise
    except Exception:
        ledger.end_early(recorder.open_runs.values(), "FAILED")
        raise
    forget(ahead)
    return recorder.finished_runs


@dataclass
class _Recorder:
    """Writes the events of trials into their runs."""

    ledger: Ledger
    trials: Trials
    # Taken once, as the trial keys are: what is edited while trials run must not be said to have made them.
    stage_tags: dict[str, str] = field(default_factory=lambda: {**stage_tags(), "code": code_fingerprint()})
    open_runs: dict[str, str] = field(default_factory=dict)
    finished_runs: dict[str, str] = field(default_factory=dict)

    def record(self, events: Iterable[Event]) -> None:
        """Write down what has happened; epochs of a trial that came together are written together."""
        epochs: dict[str, list[EpochEnded]] = {}
        for event in events:
            if isinstance(event, EpochEnded):
                epochs.setdefault(event.key, []).append(event)
            else:
                self._record_epochs(epochs.pop(event.key, []))
                # Broken off in the middle, a run would be open that nobody knows of, or a sqlite store stay locked.
                with interrupted_afterwards():
                    self._record(event)
        for of_one_trial in epochs.values():
            self._record_epochs(of_one_trial)

    def _record_epochs(self, epochs: Sequence[EpochEnded]) -> None:
        if epochs:
            with interrupted_afterwards():
                self.ledger.log_epochs(self.open_runs[epochs[0].key], [(epoch.metrics, epoch.seconds) for epoch in epochs])

    def _record(self, event: Started | Finished | Interrupted) -> None:
        match event:
            case Started(key, host):
                trial = self.trials[key]
                tags = {"trial_key": key, "host": host, **trial.tags, **self.stage_tags}
                self.open_runs[key] = self.ledger.start(trial.name, trial.config, tags, trial.note)
            case Interrupted(key):
                if key in self.open_runs:
                    self.ledger.end_early([self.open_runs.pop(key)], "FAILED")
            case Finished(key, result):
                self.ledger.finish(self.open_runs[key], result)
                self.finished_runs[key] = self.open_runs.pop(key)

    def record_at_once(self, key: str) -> None:
        """Write down a trial that ended before; nobody knows how long its epochs took."""
        history = result_of(key).read_history().to_dict("records")
        epochs = [({str(name): value for name, value in metrics.items()}, None) for metrics in history]
        self._record(Started(key, platform.node()))
        self.ledger.log_epochs(self.open_runs[key], epochs)
        self._record(Finished(key, result_of(key)))


def _log_missing_models(ledger: Ledger, trials: Trials, run_ids: Mapping[str, str]) -> None:
    from pipeline.tracking.models import log_models

    missing = ledger.without_model(run_ids[key] for key in trials)
    weights = {key: result_of(key).weights.resolve() for key in trials}
    models = {run_ids[key]: (trial.config, weights[key]) for key, trial in trials.items() if run_ids[key] in missing}
    if models:
        train = load_examples("train")
        call_in_worker(log_models, ledger.tracking_uri, models, train.image_shape, len(train.classes))


def _write_cell(trials: Trials, output: Path) -> None:
    histories = {key: result_of(key).read_history() for key in trials}
    table = pd.concat([label(trials[key], history) for key, history in histories.items()])
    with replacing(output) as temporary:
        (temporary / "weights").mkdir(parents=True)
        table.to_csv(temporary / "history.csv", index=False)
        (temporary / "metrics.json").write_text(json.dumps(_summary(list(histories.values())), indent=2, sort_keys=True) + "\n")
        for key, trial in trials.items():
            shutil.copyfile(result_of(key).weights, temporary / "weights" / f"seed-{trial.config.seed}.weights.h5")


def label(trial: Trial, table: pd.DataFrame) -> pd.DataFrame:
    """Put before a trial's table what tells it from the others of its study: arm, batch size, level and seed; a list as text."""
    level = {name: str(value) if isinstance(value, list) else value for name, value in trial.level.items()}
    labels = {"arm": trial.arm, "batch_size": trial.config.batch_size, **level, "seed": trial.config.seed}
    return pd.concat([pd.DataFrame(labels, index=table.index), table], axis=1)


def _summary(histories: list[pd.DataFrame]) -> dict[str, Any]:
    """Mean, sample SD and n over seeds of each metric's last value, diverged trials apart."""
    last = pd.DataFrame([history.iloc[-1] for history in histories if not diverged(history)]).drop(columns="epoch", errors="ignore")
    return {**{str(name): asdict(summarize(last[name])) for name in last}, "diverged": sum(map(diverged, histories))}
