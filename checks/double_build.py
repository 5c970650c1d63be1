"""Build both pipelines twice, on small synthetic data, and compare everything it leaves: files by hash, runs by content."""

import json
import shutil
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.entities import Run

from checks.clone import Clone, copy_work_tree, shrink_to_synthetic_data
from checks.lock import CLAIMS, PIPELINES, built_pipelines, outputs, read_lock
from pipeline.common.files import sha256_of

TIMED = "timing"
MEASURED_TIME = "epoch_seconds"
TAGS = ("arm", "study", "trial_key", "data_md5", "kind", "dvc.stage")


def build_twice(folder: Path) -> list[str]:
    """Build in two copies at different paths, with one worker and with two, nothing read back; name what differs."""
    mirror = folder / "mirror"
    first = _build(_shrunken_copy(folder / "first", mirror), workers=1)
    second = _shrunken_copy(folder / "elsewhere" / "second", mirror)
    _take_timings(first, second)
    copies = [first, _build(second, workers=2)]
    return unlike_outputs(*(copy.root for copy in copies)) + unlike_runs(*(copy.root for copy in copies))


def _shrunken_copy(root: Path, mirror: Path) -> Clone:
    copy = copy_work_tree(root)
    shrink_to_synthetic_data(copy, mirror)
    return copy


def _take_timings(first: Clone, second: Clone) -> None:
    """What is measured in seconds never comes out the same; all that follows from it must."""
    for path in outputs({TIMED: read_lock(first.root, CLAIMS)[TIMED]}):
        (second.root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(first.root / path, second.root / path)
    second.succeed("dvc", "freeze", f"{CLAIMS}:{TIMED}")


def _build(copy: Clone, workers: int) -> Clone:
    print(f"building in {copy.root}, workers: {workers}", flush=True)
    copy.succeed("dvc", "repro", *PIPELINES, TRIAL_LEDGER="off", TRIAL_WORKERS=str(workers))
    return copy


def unlike_outputs(first: Path, second: Path) -> list[str]:
    """Name each output whose hash in a lock is not the same in both folders."""
    locks = [[read_lock(root, pipeline) for pipeline in built_pipelines(root)] for root in (first, second)]
    hashes = [{path: entry["md5"] for lock in of_root for path, entry in outputs(lock).items()} for of_root in locks]
    return [f"output {path}" for path in sorted(hashes[0].keys() | hashes[1].keys()) if hashes[0].get(path) != hashes[1].get(path)]


def unlike_runs(first: Path, second: Path) -> list[str]:
    """Name each run that is not in both folders' stores with the same parameters, metrics, tags and files."""
    stores = [Counter(_describe_runs(root)) for root in (first, second)]
    unlike = (stores[0] - stores[1]) + (stores[1] - stores[0])
    return sorted({f"run {json.loads(described)['name']}" for described in unlike})


def _describe_runs(root: Path) -> list[str]:
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [json.dumps(_describe(client, run), sort_keys=True) for run in client.search_runs(experiments, max_results=1000)]


def _describe(client: MlflowClient, run: Run) -> dict[str, object]:
    """Everything about a run but when, where and how fast it was made."""
    metrics = {
        name: [(point.step, repr(point.value)) for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
        if name != MEASURED_TIME
    }
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "parameters": run.data.params,
        "metrics": metrics,
        "tags": {name: run.data.tags.get(name) for name in TAGS},
        "data": sorted(f"{item.dataset.name} {item.dataset.digest}" for item in (run.inputs.dataset_inputs if run.inputs else [])),
        "files": _hash_files(Path(unquote(urlsplit(run.info.artifact_uri).path))),
    }


def _hash_files(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_of(path) for path in files}
