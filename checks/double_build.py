"""Build both pipelines twice, on small synthetic data, and compare everything that they leave: files by hash, runs by content."""

import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient

from checks.clone import copy_work_tree, shrink_to_synthetic_data
from checks.lock import CLAIMS_PIPELINE, PIPELINES, locked_md5, outputs, read_lock
from pipeline.common.errors import PipelineError
from pipeline.common.files import sha256_of
from pipeline.tracking import names

TIMED = "timing"
TAGS = (names.ARM, names.STUDY, names.TRIAL_KEY, names.DATA_MD5, names.KIND, names.DVC_STAGE)


def check_two_builds() -> None:
    """Build in two copies at different paths, with one worker and with two, nothing read back.

    Raises:
        PipelineError: It names what differs.
    """
    with tempfile.TemporaryDirectory(prefix="double-build-") as folder:
        roots = [Path(folder) / "first", Path(folder) / "elsewhere" / "second"]
        for workers, root in enumerate(roots, start=1):
            copy = copy_work_tree(root)
            shrink_to_synthetic_data(copy, Path(folder) / "mirror")
            if root != roots[0]:  # what is measured in seconds never comes out the same; all that follows from it must
                for path in outputs({TIMED: read_lock(roots[0], CLAIMS_PIPELINE)[TIMED]}):
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(roots[0] / path, root / path)
                copy.succeed("dvc", "freeze", f"{CLAIMS_PIPELINE}:{TIMED}")
            print(f"  building in {root}, workers: {workers}", flush=True)
            copy.succeed("dvc", "repro", *PIPELINES, TRIAL_LEDGER="off", TRIAL_WORKERS=str(workers))
        if unlike := unlike_outputs(*roots) + unlike_runs(*roots):
            raise PipelineError(f"two builds of the same differ in {', '.join(unlike)}")


def unlike_outputs(first: Path, second: Path) -> list[str]:
    """Name each output whose hash in a lock is not the same in both folders."""
    hashes = [locked_md5(root) for root in (first, second)]
    return [f"output {path}" for path in sorted(hashes[0].keys() | hashes[1].keys()) if hashes[0].get(path) != hashes[1].get(path)]


def unlike_runs(first: Path, second: Path) -> list[str]:
    """Name each run that is not in both folders' stores with the same parameters, metrics, tags and files."""
    stores = [Counter(_describe_runs(root)) for root in (first, second)]
    return sorted({f"run {json.loads(described)['name']}" for described in (stores[0] - stores[1]) + (stores[1] - stores[0])})


def _describe_runs(root: Path) -> list[str]:
    """Return everything about each run but when, where and how fast it was made."""
    client, described = MlflowClient(f"sqlite:///{root}/mlflow.db"), []
    for run in client.search_runs([experiment.experiment_id for experiment in client.search_experiments()], max_results=1000):
        histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics if name != names.EPOCH_SECONDS}
        artifacts = Path(unquote(urlsplit(run.info.artifact_uri).path))
        description = {
            "name": run.info.run_name,
            "status": run.info.status,
            "parameters": run.data.params,
            "metrics": {name: [(point.step, repr(point.value)) for point in history] for name, history in histories.items()},
            "tags": {name: run.data.tags.get(name) for name in TAGS},
            "data": sorted(f"{item.dataset.name} {item.dataset.digest}" for item in (run.inputs.dataset_inputs if run.inputs else [])),
            "files": {str(path.relative_to(artifacts)): sha256_of(path) for path in artifacts.rglob("*") if path.is_file()},
        }
        described.append(json.dumps(description, sort_keys=True))
    return described
