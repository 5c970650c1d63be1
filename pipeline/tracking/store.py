"""The ledger of trials: all that the project says to MLflow of runs, and asks of them."""

import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus, Metric, Param, Run, ViewType
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from pipeline.common.addresses import public, reason
from pipeline.common.errors import PipelineError
from pipeline.common.files import naming_what_is_full, remove, replacing
from pipeline.common.project import project_root
from pipeline.tracking.provenance import host, lives, stage_tags, this_process
from pipeline.training.config import TrialConfig
from pipeline.training.result import FILES, TrialResult, diverged

# MLflow's notes on each table it makes, and a bar for each file it copies, would drown the trials' progress.
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it logs with a traceback, it raises too
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each trial, and a question to the server

EXPERIMENT = "cifar10-batch-norm"
EVALUATION_NOTE = (
    "What every trial of study `train` does on the test set. Its model, if it has one, is the arm that does best on validation, "
    "in the form in which it is served."
)
NOTE_TAG = "mlflow.note.content"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # without it the UI looks for traces of language models
RUNS_PER_PAGE = 1_000
EXPERIMENTS_PER_PAGE = 1_000
STARTED = ["attributes.start_time ASC"]
NEWEST_FIRST = ["attributes.start_time DESC"]
LEDGER_VARIABLE = "TRIAL_LEDGER"
DRIVER_TAG = "driver"
RETRIES_VARIABLE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
LOCKED = "database is locked"
BUSY_SECONDS = 60
ALREADY_THERE = "RESOURCE_ALREADY_EXISTS"
MADE_MEANWHILE = ("UniqueViolation", "UNIQUE constraint failed")  # PostgreSQL's words and sqlite's
SECONDS_BETWEEN_CALLS = 1
LOCKED_SECONDS = 240  # as long as MLflow asks a server again, by default
# MLflow itself has no index by which a tag's value is found, or an open run. deploy/indexes.sql gives a server's database the same.
# Each holds only rows that are ours: other tags may be too long for an index.
INDEXES = (
    "CREATE INDEX IF NOT EXISTS batch_norm_trial_key ON tags (value) WHERE key = 'trial_key'",
    "CREATE INDEX IF NOT EXISTS batch_norm_kind ON tags (value)"
    " WHERE key = 'kind' AND (value = 'evaluation' OR value = 'report' OR value = 'verdicts')",
    "CREATE INDEX IF NOT EXISTS batch_norm_running ON runs (status, experiment_id, lifecycle_stage) WHERE status = 'RUNNING'",
)


class Ledger:
    """A connection to the tracking store, in one experiment.

    Honours MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_ID and MLFLOW_EXPERIMENT_NAME; by default the store is
    `mlflow.db` and `mlartifacts/` in the project's root. Under `mlflow run`, the project's run becomes the parent.

    Raises:
        PipelineError: the store cannot be reached or the experiment does not exist.
    """

    def __init__(self) -> None:
        # Every child of `mlflow run` inherits this variable; left there, all trials would write into one run.
        self.parent_run_id = os.environ.pop("MLFLOW_RUN_ID", None)
        self.tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"
        try:
            self.client = PatientClient(_open_store(self.tracking_uri))
            self.experiment_id = self._find_or_create_experiment()
            self._close_runs_of_dead_drivers()
        except (MlflowException, OSError, ImportError, ValueError, ArgumentError, sqlite3.Error) as error:
            raise self._explained(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None) -> None:
        """Explain what MLflow raised in the block."""
        if isinstance(error, (MlflowException, RequestException)):
            raise self._explained(error) from None

    @property
    def is_on(self) -> bool:
        """Whether finished trials are read back; TRIAL_LEDGER=off trains everything anew, for verification.

        Raises:
            PipelineError: the variable is neither `on` nor `off`.
        """
        value = os.environ.get(LEDGER_VARIABLE, "on")
        if value not in ("on", "off"):
            raise PipelineError(f"{LEDGER_VARIABLE}: should be on or off (got {value!r})")
        return value == "on"

    def find(self, keys: Collection[str]) -> dict[str, Run]:
        """Return the finished runs of the trials with these keys, by key, from any experiment of the store.

        Of several runs of one trial, which hold the same result, the newest. One question a key: MLflow's filters know no
        `IN` for tags, and no `OR`.
        """
        experiments = self._experiment_ids() if keys else []
        found = {key: self._newest(experiments, f"tags.trial_key = '{key}'") for key in keys}
        return {key: run for key, run in found.items() if run is not None}

    def read_back(self, run: Run, result: TrialResult) -> bool:
        """Copy a finished run's result to disk; False, and said so, if its artifacts are gone or damaged."""
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

    def start(self, name: str, config: TrialConfig, tags: dict[str, str], note: str) -> str:
        """Open the run of a trial that begins now, with its parameters, tags, note and data set; return the run's id."""
        run_id = self._create_run(name, {"kind": "trial", NOTE_TAG: note, **tags})
        parameters = [Param(key, str(value)) for key, value in config.model_dump().items()]
        self.client.log_batch(run_id, params=parameters)
        self._log_inputs(run_id, [_dataset_input(tags["data_md5"], context) for context in ("train", "validation")])
        return run_id

    def log_epochs(self, run_id: str, epochs: Iterable[tuple[dict[str, float], float | None]]) -> None:
        """Log epochs, each with its metrics, of which `epoch` becomes the step, and the seconds that it took, if that is known.

        MLflow takes 1,000 values a call: epochs that are logged together cost little more than one.
        """
        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[metric for epoch in epochs for metric in _metrics_of_epoch(*epoch, now)])

    def finish(self, run_id: str, result: TrialResult) -> None:
        """Keep the result in the run and close it: from here on the ledger knows the trial."""
        history = result.read_history()
        self._log_metrics(run_id, _final_metrics(history), step=int(history["epoch"].iloc[-1]))
        self._keep(run_id, [result.folder / name for name in FILES])
        self.client.set_terminated(run_id, "FINISHED")

    def end_early(self, run_ids: Iterable[str], status: str) -> None:
        """Close runs that will not finish as FAILED or KILLED; a store that is out of reach must not hide the cause."""
        with suppress(MlflowException), _asking_once_more():
            for run_id in run_ids:
                MlflowClient(self.tracking_uri).set_terminated(run_id, status)

    def add_study(self, run: Run, study: str, note: str) -> None:
        """Add a study to the run's tag `study`, which names all that use the trial; a run without a note gets this one."""
        if NOTE_TAG not in run.data.tags:
            self.client.set_tag(run.info.run_id, NOTE_TAG, note)
        studies = {*run.data.tags.get("study", "").split(","), study} - {""}
        if ",".join(sorted(studies)) != run.data.tags.get("study"):
            self.client.set_tag(run.info.run_id, "study", ",".join(sorted(studies)))

    def without_model(self, run_ids: Iterable[str]) -> list[str]:
        """Of these runs, those that have no model yet."""
        return [run_id for run_id in run_ids if not self._has_model(run_id)]

    def log_summary(self, run_id: str, metrics: dict[str, float]) -> None:
        """Log metrics that have no steps, as of an evaluation, or of a trial to the run that `mlflow run` opened for it."""
        self._log_metrics(run_id, metrics, step=0)

    @contextmanager
    def evaluation(self, digests: dict[str, str]) -> Iterator[str]:
        """Open a run for the block, in which data sets are evaluated, given as MD5s by split; give the run's id."""
        run_id = self._create_run("evaluation", {"kind": "evaluation", NOTE_TAG: EVALUATION_NOTE, **stage_tags()})
        self._log_inputs(run_id, [_dataset_input(md5, split) for split, md5 in digests.items()])
        try:
            yield run_id
        except BaseException:
            self.end_early([run_id], "FAILED")
            raise
        self.client.set_terminated(run_id, "FINISHED")

    def log_file(self, run_id: str, path: Path) -> None:
        """Keep a file in a run."""
        self._keep(run_id, [path])

    def log_model_metrics(self, run_id: str, model_id: str, metrics: dict[str, float]) -> None:
        """Log metrics to a run's model, whose page shows them."""
        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(name, value, now, 0, model_id=model_id) for name, value in metrics.items()])

    def log_report(self, folder: Path, metrics: dict[str, float]) -> None:
        """Log a run that holds the report's files and its summary metrics."""
        run_id = self._create_run("report", {"kind": "report", **stage_tags()})
        self._log_metrics(run_id, metrics, step=0)
        self.client.log_artifacts(run_id, str(folder))
        self.client.set_terminated(run_id, "FINISHED")

    def log_verdicts(self, verdicts: pd.DataFrame, effects: dict[str, float]) -> None:
        """Log a run that holds the verdicts as a table, one row per claim, and the effects as metrics."""
        run_id = self._create_run("verdicts", {"kind": "verdicts", **stage_tags()})
        self._log_metrics(run_id, effects, step=0)
        self.client.log_table(run_id, verdicts, "verdicts.json")
        self.client.set_terminated(run_id, "FINISHED")

    def newest_run(self, kind: str) -> str | None:
        """Return the id of the newest finished run of a kind (`report`, `verdicts`, `evaluation`), if there is one."""
        run = self._newest([self.experiment_id], f"tags.kind = '{kind}'")
        return run.info.run_id if run else None

    def finished_trials(self, study: str) -> pd.DataFrame:
        """Return the experiment's finished trials that a study uses, a row each, in the order in which they began.

        Columns: `study` (all that use it, joined by commas), `arm`, `seed`, `start_time` (ms), `data_md5`, `code` (what the
        trial key holds of it), every parameter as text in `params.<name>`, and every metric's last value.
        """
        return pd.DataFrame([_as_row(run) for run in self._finished_trial_runs(study)])

    def newest_studies(self) -> list[str]:
        """Name the studies that use the newest of the experiment's finished trials."""
        query = "tags.kind = 'trial' and attributes.status = 'FINISHED'"
        newest = self.client.search_runs([self.experiment_id], query, ViewType.ACTIVE_ONLY, RUNS_PER_PAGE, NEWEST_FIRST)
        return sorted({study for run in newest if _is_trial(run) for study in run.data.tags["study"].split(",")})

    def tag_claims(self, studies: Mapping[str, str]) -> None:
        """Name in the tag `claims` of each finished trial the claims that it speaks to; `studies` gives each claim's study."""
        for run in (run for study in sorted(set(studies.values())) for run in self._finished_trial_runs(study)):
            its_studies = run.data.tags["study"].split(",")
            claims = ",".join(claim for claim, study in studies.items() if study in its_studies)
            if claims != run.data.tags.get("claims", ""):
                self.client.set_tag(run.info.run_id, "claims", claims)

    def _finished_trial_runs(self, study: str) -> Iterator[Run]:
        """Give a study's finished trials in the order in which they began, without runs that somebody logged by hand."""
        # `_` is any character to LIKE. A condition on a second tag would let PostgreSQL plan for a single row, and take seconds.
        pattern = re.sub(r"\W", "_", study)
        for run in self._search(f"tags.study LIKE '%{pattern}%' and attributes.status = 'FINISHED'", STARTED):
            if _is_trial(run) and study in run.data.tags["study"].split(","):
                yield run

    def _search(self, query: str, order: list[str]) -> Iterator[Run]:
        """Give the experiment's runs page by page; a page begins at a count of runs, so what is read must not change meanwhile."""
        token = ""
        while token is not None:
            page = self.client.search_runs([self.experiment_id], query, ViewType.ACTIVE_ONLY, RUNS_PER_PAGE, order, token or None)
            yield from page
            token = page.token

    def _newest(self, experiments: list[str], query: str) -> Run | None:
        finished = f"{query} and attributes.status = 'FINISHED'"
        runs = self.client.search_runs(experiments, finished, ViewType.ACTIVE_ONLY, 1, NEWEST_FIRST)
        return runs[0] if runs else None

    def _experiment_ids(self) -> list[str]:
        """Ids of all experiments of the store that are not deleted."""
        experiments: list[str] = []
        token = ""
        while token is not None:
            page = self.client.search_experiments(max_results=EXPERIMENTS_PER_PAGE, page_token=token or None)
            experiments += [str(experiment.experiment_id) for experiment in page]
            token = page.token
        return experiments

    def experiment_tags(self) -> dict[str, str]:
        """Return what the experiment is tagged with."""
        return dict(self.client.get_experiment(self.experiment_id).tags)

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """Give the experiment these tags, and write only what is new."""
        present = self.experiment_tags()
        for name, value in tags.items():
            if present.get(name) != value:
                self.client.set_experiment_tag(self.experiment_id, name, value)

    def _create_run(self, name: str, tags: dict[str, str]) -> str:
        parent = {"mlflow.parentRunId": self.parent_run_id} if self.parent_run_id else {}
        source = tags.get("study", tags["kind"])  # the UI shows it in the table from the start, and no other tag
        described = {"mlflow.source.name": source, DRIVER_TAG: this_process(), **parent, **tags}
        return str(self.client.create_run(self.experiment_id, run_name=name, tags=described).info.run_id)

    def _log_metrics(self, run_id: str, metrics: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(name, value, now, step) for name, value in metrics.items()])

    def _keep(self, run_id: str, files: Iterable[Path]) -> None:
        try:
            for file in files:
                self.client.log_artifact(run_id, str(file))
        except (OSError, RuntimeError):
            with naming_what_is_full(self.client.get_run(run_id).info.artifact_uri):
                raise

    def _log_inputs(self, run_id: str, inputs: list[DatasetInput]) -> None:
        try:
            self.client.log_inputs(run_id, inputs)
        except MlflowException as error:
            if not any(text in str(error) for text in MADE_MEANWHILE):
                raise
            self.client.log_inputs(run_id, inputs)  # which finds the data sets that another driver has just made

    def _explained(self, error: Exception) -> PipelineError:
        store, fault = public(self.tracking_uri, self.tracking_uri), reason(error, self.tracking_uri)
        mend = "check the server and the MLFLOW_ variables (with none set, it is mlflow.db in the project); what was trained is kept"
        return PipelineError(f"tracking store {store} cannot be used: {fault}; {mend}")

    def _has_model(self, run_id: str) -> bool:
        outputs = self.client.get_run(run_id).outputs
        models = [] if outputs is None else outputs.model_outputs
        # An upload that was cut off leaves a model that is not ready.
        return any(self.client.get_logged_model(model.model_id).status == LoggedModelStatus.READY for model in models)

    def _find_or_create_experiment(self) -> str:
        by_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if by_id:
            return str(self.client.get_experiment(by_id).experiment_id)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        with store_lock():
            experiment = self.client.get_experiment_by_name(name)
            if experiment is None:
                local = self.tracking_uri.startswith("sqlite:")
                location = (project_root() / "mlartifacts").as_uri() if local else None
                try:
                    return str(self.client.create_experiment(name, location, EXPERIMENT_TAGS))
                except MlflowException as error:
                    if error.error_code != ALREADY_THERE:
                        raise
                    experiment = self.client.get_experiment_by_name(name)  # from a driver on another machine, meanwhile
        if experiment.lifecycle_stage == "deleted":
            raise PipelineError(f"MLflow experiment '{name}' is deleted; restore it, or set MLFLOW_EXPERIMENT_NAME to another")
        return str(experiment.experiment_id)

    def _close_runs_of_dead_drivers(self) -> None:
        query = f"attributes.status = 'RUNNING' and tags.{DRIVER_TAG} LIKE '{host()} %'"
        for run in list(self._search(query, STARTED)):
            if not lives(run.data.tags[DRIVER_TAG]):
                self.client.set_terminated(run.info.run_id, "KILLED")


class PatientClient:
    """An MLflow client whose calls wait while another process keeps a sqlite store locked; MLflow itself gives up after 20 s."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(patiently, getattr(self._client, name))


def patiently(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - passes on what the call takes and gives
    """Call what speaks to the tracking store, and again while another process keeps a sqlite store locked."""
    deadline = time.monotonic() + LOCKED_SECONDS
    while True:
        try:
            return call(*arguments, **named)
        except MlflowException as error:
            if LOCKED not in str(error) or time.monotonic() > deadline:
                raise
            print("another process keeps the tracking store locked; waiting for it", flush=True)
            time.sleep(SECONDS_BETWEEN_CALLS)  # MLflow has mostly waited already, but sqlite may refuse at once


def _open_store(tracking_uri: str) -> MlflowClient:
    """Connect, and fail soon if nobody answers; a new sqlite store is initialised by one process at a time."""
    with _asking_once_more(), store_lock():
        if tracking_uri.startswith("sqlite:"):
            _execute(tracking_uri, "PRAGMA journal_mode=WAL")  # readers, as the UI, never wait for writers
        client = MlflowClient(tracking_uri)
        client.search_experiments(max_results=1)
        if tracking_uri.startswith("sqlite:"):
            with suppress(sqlite3.OperationalError):  # if it is locked or full, the next opening makes them
                _execute(tracking_uri, *INDEXES)
    return client


def _execute(tracking_uri: str, *statements: str) -> None:
    with closing(sqlite3.connect(make_url(tracking_uri).database or "", timeout=BUSY_SECONDS)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def _asking_once_more() -> Iterator[None]:
    """Let MLflow ask a server that does not answer only once more, where it would go on for minutes."""
    before = os.environ.get(RETRIES_VARIABLE)
    os.environ[RETRIES_VARIABLE] = "1"
    try:
        yield
    finally:
        os.environ.pop(RETRIES_VARIABLE)
        if before is not None:
            os.environ[RETRIES_VARIABLE] = before


def store_lock() -> FileLock:
    """What lets one process of this user at a time look into the store and change it by what is there."""
    # Not in this process's own folder for temporary files: all processes of a user must meet here.
    return FileLock(Path("/tmp") / f"batch-norm-laboratory-store-{os.getuid()}.lock", timeout=300)  # noqa: S108 - a lock, never read


def _dataset_input(data_md5: str, context: str) -> DatasetInput:
    dataset = Dataset(name=f"cifar10-{context}", digest=data_md5[:8], source_type="local", source=f'{{"uri": "data/processed/{context}"}}')
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)])


def _metrics_of_epoch(metrics: dict[str, float], seconds: float | None, timestamp: int) -> list[Metric]:
    values = {name: value for name, value in metrics.items() if name != "epoch"}
    if seconds is not None:
        values["epoch_seconds"] = seconds
    return [Metric(name, value, timestamp, int(metrics["epoch"])) for name, value in values.items()]


def _is_trial(run: Run) -> bool:
    return run.data.tags.get("kind") == "trial" and run.data.tags.keys() >= {"study", "arm"} and "seed" in run.data.params


def _as_row(run: Run) -> dict[str, Any]:
    parameters = {f"params.{name}": value for name, value in run.data.params.items()}
    labels = {name: run.data.tags.get(name, "") for name in ("study", "arm", "data_md5", "code")}
    return {**labels, "seed": int(run.data.params["seed"]), "start_time": run.info.start_time, **parameters, **run.data.metrics}


def _final_metrics(history: pd.DataFrame) -> dict[str, float]:
    best = history.iloc[history["val_accuracy"].argmax()]
    return {
        "best_val_accuracy": float(best["val_accuracy"]),
        "best_val_epoch": float(best["epoch"]),
        "diverged": float(diverged(history)),
    }
