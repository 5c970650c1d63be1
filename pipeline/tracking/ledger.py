"""The ledger: MLflow as the memory of finished trials, and of the evaluations, reports and verdicts made from them."""

import os
import platform
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus, Metric, Param, Run, ViewType
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import ArgumentError

from pipeline.common.addresses import public, reason
from pipeline.common.errors import PipelineError
from pipeline.common.files import naming_what_is_full, project_root, remove, replacing
from pipeline.tracking import names
from pipeline.tracking.provenance import lives, read_dataset, stage_tags, this_process
from pipeline.tracking.store import asking_once_more, open_store, unless_it_is_there
from pipeline.training.config import TrialConfig
from pipeline.training.result import FILES, TrialResult, diverged

EVALUATION_NOTE = (
    "What every trial of study `train` does on the test set. Its model, if it has one, is the arm that does best on validation, "
    "in the form in which it is served."
)
EXPERIMENT_TAGS = {names.EXPERIMENT_KIND: "custom_model_development"}  # without it the UI looks for traces of language models
LEDGER_VARIABLE = "TRIAL_LEDGER"
RUNS_PER_PAGE = 1_000
EXPERIMENTS_PER_PAGE = 1_000
STARTED = ["attributes.start_time ASC"]
NEWEST_FIRST = ["attributes.start_time DESC"]
FINISHED = "attributes.status = 'FINISHED'"
MADE_MEANWHILE = ("UniqueViolation", "UNIQUE constraint failed")  # PostgreSQL's words and sqlite's


class Ledger:
    """A connection to the tracking store, in one experiment.

    It heeds MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_ID and MLFLOW_EXPERIMENT_NAME. By default the store is
    `mlflow.db` and `mlartifacts/` in the project's root. Under `mlflow run`, the project's run becomes the parent.

    Raises:
        PipelineError: The store cannot be reached or the experiment does not exist.
    """

    def __init__(self) -> None:
        # Every child of `mlflow run` inherits this variable; left there, all trials would write into one run.
        self.parent_run_id = os.environ.pop("MLFLOW_RUN_ID", None)
        self.tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"
        try:
            self.client = open_store(self.tracking_uri)
            self.experiment_id = self._find_or_create_experiment()
            for run in list(self._search(f"attributes.status = 'RUNNING' and tags.{names.DRIVER} LIKE '{platform.node()} %'")):
                if not lives(run.data.tags[names.DRIVER]):  # a driver that was killed
                    self.client.set_terminated(run.info.run_id, "KILLED")
        except (MlflowException, OSError, ImportError, ValueError, ArgumentError, sqlite3.Error) as error:
            raise self._explained(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None) -> None:
        """Explain what MLflow raised in the block."""
        if isinstance(error, (MlflowException, RequestException)):
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> PipelineError:
        store, fault = public(self.tracking_uri, self.tracking_uri), reason(error, self.tracking_uri)
        mend = "check the server and the MLFLOW_ variables (with none set, it is mlflow.db in the project); what was trained is kept"
        return PipelineError(f"tracking store {store} cannot be used: {fault}; {mend}")

    def _find_or_create_experiment(self) -> str:
        if by_id := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return str(self.client.get_experiment(by_id).experiment_id)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or names.EXPERIMENT
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            location = (project_root() / "mlartifacts").as_uri() if self.tracking_uri.startswith("sqlite:") else None
            with unless_it_is_there():  # from another driver, meanwhile
                self.client.create_experiment(name, location, EXPERIMENT_TAGS)
            experiment = self.client.get_experiment_by_name(name)
        if experiment.lifecycle_stage == "deleted":
            raise PipelineError(f"MLflow experiment '{name}' is deleted; restore it, or set MLFLOW_EXPERIMENT_NAME to another")
        return str(experiment.experiment_id)

    # Finished trials: found by their keys, and read back.

    @property
    def is_on(self) -> bool:
        """Whether finished trials are read back. TRIAL_LEDGER=off trains everything anew, for verification.

        Raises:
            PipelineError: The variable is neither `on` nor `off`.
        """
        value = os.environ.get(LEDGER_VARIABLE, "on")
        if value not in ("on", "off"):
            raise PipelineError(f"{LEDGER_VARIABLE}: should be on or off (got {value!r})")
        return value == "on"

    def find(self, keys: Collection[str]) -> dict[str, Run]:
        """Return the finished runs of the trials with these keys, by key, from any experiment of the store.

        Of several runs of one trial, which hold the same result, it returns the newest. It asks once for each key: MLflow's
        filters know no `IN` for tags, and no `OR`.
        """
        ask = partial(self.client.search_experiments, max_results=EXPERIMENTS_PER_PAGE)
        experiments = [str(experiment.experiment_id) for experiment in _pages(ask)] if keys else []
        found = {key: self._newest(experiments, f"tags.{names.TRIAL_KEY} = '{key}'") for key in keys}
        return {key: run for key, run in found.items() if run is not None}

    def read_back(self, run: Run, result: TrialResult) -> bool:
        """Copy a finished run's result to disk. Return False, and say so, if its artifacts are gone or damaged."""
        try:
            with replacing(result.folder) as temporary:
                temporary.mkdir()
                for name in FILES:
                    self.client.download_artifacts(run.info.run_id, name, str(temporary))
        except (MlflowException, FileNotFoundError) as error:
            print(f"{run.info.run_name}: the ledger has lost its result ({reason(error)}); training it again")
            return False
        if not (result.is_whole() and result.has_its_formats()):
            print(f"{run.info.run_name}: its result in the ledger is damaged; training it again")
            remove(result.folder)
            return False
        return True

    def add_study(self, run: Run, study: str) -> None:
        """Add a study to the run's tag that names all studies that use the trial."""
        studies = ",".join(sorted({*run.data.tags.get(names.STUDY, "").split(","), study} - {""}))
        if studies != run.data.tags.get(names.STUDY):
            self.client.set_tag(run.info.run_id, names.STUDY, studies)

    # A trial while it runs.

    def start(self, name: str, config: TrialConfig, tags: Mapping[str, str], note: str) -> str:
        """Open the run of a trial that begins now, with its parameters, tags, note and data set; return the run's id."""
        run_id = self._create_run(name, {names.KIND: names.TRIAL, names.NOTE: note, **tags})
        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in config.model_dump().items()])
        self._log_inputs(run_id, dict.fromkeys(("train", "validation"), tags[names.DATA_MD5]))
        return run_id

    def log_epochs(self, run_id: str, epochs: Iterable[tuple[dict[str, float], float | None]]) -> None:
        """Log epochs, each with its metrics, of which `epoch` becomes the step, and the seconds that it took, if that is known.

        MLflow takes 1,000 values a call: epochs that are logged together cost little more than one.
        """
        now = int(time.time() * 1000)
        metrics = []
        for values, seconds in epochs:
            timed = values if seconds is None else {**values, names.EPOCH_SECONDS: seconds}
            metrics += [Metric(name, value, now, int(values["epoch"])) for name, value in timed.items() if name != "epoch"]
        self.client.log_batch(run_id, metrics=metrics)

    def finish(self, run_id: str, result: TrialResult) -> None:
        """Keep the result in the run and close it: from here on the ledger knows the trial."""
        history = result.read_history()
        best = history.iloc[history[names.VAL_ACCURACY].argmax()]
        summary = {names.BEST_VAL_ACCURACY: best[names.VAL_ACCURACY], names.BEST_VAL_EPOCH: best["epoch"]}
        self.log_summary(run_id, {**summary, names.DIVERGED: float(diverged(history))}, step=int(history["epoch"].iloc[-1]))
        for name in FILES:
            self.log_file(run_id, result.folder / name)
        self.client.set_terminated(run_id, "FINISHED")

    def end_early(self, run_ids: Iterable[str], status: str) -> None:
        """Close runs that will not finish as FAILED or KILLED. A store that is out of reach must not hide the cause."""
        with suppress(MlflowException), asking_once_more():
            for run_id in run_ids:
                MlflowClient(self.tracking_uri).set_terminated(run_id, status)

    def has_model(self, run_id: str) -> bool:
        """Whether a run has its model. An upload that was cut off leaves a model that is not ready."""
        outputs = self.client.get_run(run_id).outputs
        models = [] if outputs is None else outputs.model_outputs
        return any(self.client.get_logged_model(model.model_id).status == LoggedModelStatus.READY for model in models)

    # Runs that are made from finished trials.

    def log_summary(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0, model_id: str | None = None) -> None:
        """Log metrics once, to a run or, given its id, to a model of that run."""
        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(name, value, now, step, model_id=model_id) for name, value in metrics.items()])

    def log_file(self, run_id: str, path: Path) -> None:
        """Keep a file in a run."""
        try:
            self.client.log_artifact(run_id, str(path))
        except (OSError, RuntimeError):
            with naming_what_is_full(self.client.get_run(run_id).info.artifact_uri):
                raise

    @contextmanager
    def _run(self, kind: str, **tags: str) -> Iterator[str]:
        """Open a run for the block, with its id; close it as FAILED if the block raises."""
        run_id = self._create_run(kind, {names.KIND: kind, **tags, **stage_tags()})
        try:
            yield run_id
        except BaseException:
            self.end_early([run_id], "FAILED")
            raise
        self.client.set_terminated(run_id, "FINISHED")

    @contextmanager
    def evaluation(self, digests: Mapping[str, str]) -> Iterator[str]:
        """Open a run for the block, in which data sets are evaluated, given as MD5s by split; yield the run's id."""
        with self._run(names.EVALUATION, **{names.NOTE: EVALUATION_NOTE}) as run_id:
            self._log_inputs(run_id, digests)
            yield run_id

    def log_report(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Log a run that holds the report's files and its summary metrics."""
        with self._run(names.REPORT) as run_id:
            self.log_summary(run_id, metrics)
            self.client.log_artifacts(run_id, str(folder))

    def log_verdicts(self, verdicts: pd.DataFrame, effects: Mapping[str, float]) -> None:
        """Log a run that holds the verdicts as a table, one row per claim, and the effects as metrics."""
        with self._run(names.VERDICTS) as run_id:
            self.log_summary(run_id, effects)
            self.client.log_table(run_id, verdicts, "verdicts.json")

    def _create_run(self, name: str, tags: dict[str, str]) -> str:
        parent = {names.PARENT_RUN: self.parent_run_id} if self.parent_run_id else {}
        described = {names.SOURCE: tags.get(names.STUDY, tags[names.KIND]), names.DRIVER: this_process(), **parent, **tags}
        return str(self.client.create_run(self.experiment_id, run_name=name, tags=described).info.run_id)

    def _log_inputs(self, run_id: str, digests: Mapping[str, str]) -> None:
        """Name the splits that a run uses, given with their MD5s."""
        dataset = read_dataset()["name"]
        inputs = [
            DatasetInput(
                Dataset(f"{dataset}-{split}", md5[:8], source_type="local", source=f'{{"uri": "data/processed/{split}"}}'),
                tags=[InputTag(names.DATA_CONTEXT, split)],
            )
            for split, md5 in digests.items()
        ]
        try:
            self.client.log_inputs(run_id, inputs)
        except MlflowException as error:
            if not any(text in str(error) for text in MADE_MEANWHILE):
                raise
            self.client.log_inputs(run_id, inputs)  # which finds the data sets that another driver has just made

    # Questions about the experiment's runs.

    def newest_run(self, kind: str) -> str | None:
        """Return the id of the newest finished run of a kind (`report`, `verdicts`, `evaluation`), if there is one."""
        run = self._newest([self.experiment_id], f"tags.{names.KIND} = '{kind}'")
        return run.info.run_id if run else None

    def finished_trials(self, study: str) -> pd.DataFrame:
        """Return the experiment's finished trials that a study uses, a row each, in the order in which they began.

        Columns: the tags `study` (all that use it, joined by commas), `arm`, `data_md5` and `code`; `seed`; `start_time` (ms);
        every parameter as text in `params.<name>`; every metric's last value.
        """
        rows = []
        for run in self._finished_trial_runs(study):
            tags = {name: run.data.tags.get(name, "") for name in (names.STUDY, names.ARM, names.DATA_MD5, names.CODE)}
            parameters = {f"params.{name}": value for name, value in run.data.params.items()}
            times = {"seed": int(run.data.params["seed"]), "start_time": run.info.start_time}
            rows.append({**tags, **times, **parameters, **run.data.metrics})
        return pd.DataFrame(rows)

    def newest_studies(self) -> list[str]:
        """Name the studies that use the newest of the experiment's finished trials."""
        query = f"tags.{names.KIND} = '{names.TRIAL}' and {FINISHED}"
        newest = self.client.search_runs([self.experiment_id], query, ViewType.ACTIVE_ONLY, RUNS_PER_PAGE, NEWEST_FIRST)
        return sorted({study for run in newest if _is_trial(run) for study in run.data.tags[names.STUDY].split(",")})

    def tag_claims(self, studies: Mapping[str, str]) -> None:
        """Tag each finished trial with the claims that it speaks to; `studies` gives each claim's study."""
        for run in (run for study in sorted(set(studies.values())) for run in self._finished_trial_runs(study)):
            its_studies = run.data.tags[names.STUDY].split(",")
            claims = ",".join(claim for claim, study in studies.items() if study in its_studies)
            if claims != run.data.tags.get(names.CLAIMS, ""):
                self.client.set_tag(run.info.run_id, names.CLAIMS, claims)

    def _finished_trial_runs(self, study: str) -> Iterator[Run]:
        """Yield a study's finished trials in the order in which they began, without runs that somebody logged by hand."""
        # `_` is any character to LIKE. A condition on a second tag would let PostgreSQL plan for a single row, and take seconds.
        pattern = re.sub(r"\W", "_", study)
        for run in self._search(f"tags.{names.STUDY} LIKE '%{pattern}%' and {FINISHED}"):
            if _is_trial(run) and study in run.data.tags[names.STUDY].split(","):
                yield run

    def _search(self, query: str) -> Iterator[Run]:
        """Yield the experiment's runs page by page. A page begins at a count of runs, so what is read must not change meanwhile."""
        yield from _pages(partial(self.client.search_runs, [self.experiment_id], query, ViewType.ACTIVE_ONLY, RUNS_PER_PAGE, STARTED))

    def _newest(self, experiments: list[str], query: str) -> Run | None:
        runs = self.client.search_runs(experiments, f"{query} and {FINISHED}", ViewType.ACTIVE_ONLY, 1, NEWEST_FIRST)
        return runs[0] if runs else None


def _pages(ask: Callable[..., Any]) -> Iterator[Any]:
    """Yield what MLflow answers page by page."""
    token = ""
    while token is not None:
        page = ask(page_token=token or None)
        yield from page
        token = page.token


def _is_trial(run: Run) -> bool:
    tags = run.data.tags
    return tags.get(names.KIND) == names.TRIAL and tags.keys() >= {names.STUDY, names.ARM} and "seed" in run.data.params
