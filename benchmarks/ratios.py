"""The figures that the project is held to, each a ratio within one run on one machine, or a plain cost."""

from typing import Any

from benchmarks.steps import PEERS, REFERENCE_BATCH_SIZE

NORMALIZATION = "batch"


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """Work out every ratio whose measurements are there; names as in the README's table."""
    found: dict[str, float] = {}
    if "steps" in results and "floor" in results:
        found |= _of_steps(results["steps"], results["floor"])
    jobs = results.get("whole_jobs", {})
    if "notebook" in jobs and "dvc_repro_of_the_same_five" in jobs:
        found["notebook_whole_job"] = jobs["notebook"]["scaled_s"] / jobs["dvc_repro_of_the_same_five"]["seconds"]
    if "full_repro" in jobs:
        full, parts = jobs["full_repro"], jobs["full_repro"]["parts"]
        found["not_training_share"] = 1 - parts["training"] / full["seconds"]
        found["neither_training_nor_evaluation_share"] = 1 - (parts["training"] + parts["evaluation each epoch"]) / full["seconds"]
        found["noop_repro_s"] = jobs["noop_repro_s"]["median"]
        found["worker_peak_gb"] = full["worker_peak_gb"]
    return found


def _of_steps(steps: list[dict[str, Any]], floor: list[dict[str, Any]]) -> dict[str, float]:
    rows = [row for row in steps if _is_reference(row) and row["same_work"]]
    speed = {(row["contender"], row["processes"]): row["images_per_s"]["median"] for row in rows}
    project = max(value for (name, _), value in speed.items() if name == "project")
    notebook = max(value for (name, _), value in speed.items() if name == "notebook")
    found = {
        "notebook_images_per_s": project / notebook,
        "two_workers_over_one": speed["project", 2] / speed["project", 1],
        "step_over_floor": next(row["over_floor"]["median"] for row in floor if _is_reference(row)),
        "step_over_floor_without_batch_norm": next(row["over_floor"]["median"] for row in floor if _is_reference(row, "none")),
    }
    peers = [value for (name, _), value in speed.items() if name in PEERS]
    return found | ({"best_peer_images_per_s": project / max(peers)} if peers else {})


def _is_reference(row: dict[str, Any], normalization: str = NORMALIZATION) -> bool:
    return (row["batch_size"], row["normalization"]) == (REFERENCE_BATCH_SIZE, normalization)
