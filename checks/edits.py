"""Make every change that docs/changing.md describes, in a small copy of the project with results, and note what each one costs."""

import argparse
import dataclasses
import json
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from checks.clone import Clone, copy_work_tree, shrink_to_synthetic_data
from checks.lock import PIPELINES
from checks.synthetic import make_files, write_folder
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing
from pipeline.images.cifar10 import CIFAR10
from pipeline.pages.generated import update_page

PAGE = Path("docs/changing.md")
COSTS = Path("checks/edits.json")
RECIPE = re.compile(r"^```sh\n# recipe: ([^\n]+)\n(.*?)^(dvc repro[^\n]*)\n```", re.DOTALL | re.MULTILINE)


class Recipe(NamedTuple):
    """A change: the shell commands that edit files, and the command that then runs what is stale."""

    edit: str
    repro: str


def main() -> None:
    """Make the changes and write what they cost, or with --check only compare the page with what was noted."""
    parser = argparse.ArgumentParser(prog="python -m checks.edits", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page's table is not that of checks/edits.json")
    check = parser.parse_args().check
    if not check:
        with tempfile.TemporaryDirectory(prefix="edits-") as folder, replacing(COSTS) as temporary:
            temporary.write_text(json.dumps(measure_costs(Path(folder)), indent=2) + "\n", encoding="utf-8")
    costs = json.loads(COSTS.read_text(encoding="utf-8"))
    if costs.keys() != read_recipes().keys():
        raise PipelineError(f"{COSTS}: not of the recipes of {PAGE}; run `python -m checks.edits`")
    update_page("costs", "python -m checks.edits", as_table(costs), check=check, page=PAGE)


def read_recipes(page: Path = PAGE) -> dict[str, Recipe]:
    """Return the recipes of the page, by the change's name."""
    return {name: Recipe(edit, repro) for name, edit, repro in RECIPE.findall(page.read_text(encoding="utf-8"))}


def measure_costs(folder: Path) -> dict[str, dict[str, Any]]:
    """Build both pipelines in a small copy, and return by name what each change touches, makes stale and takes."""
    clone, built, costs = copy_work_tree(folder / "project"), folder / "built", {}
    shrink_to_synthetic_data(clone, folder / "mirror")
    clone.environment["HOME"] = str(write_cifar100(folder))
    print(f"building in {clone.root}", flush=True)
    clone.succeed("dvc", "repro", *PIPELINES)
    clone.commit("results")
    shutil.copytree(clone.root, built, symlinks=True)
    for name, recipe in read_recipes().items():
        costs[name] = make_edit(clone, recipe)
        began = time.perf_counter()
        clone.succeed(*recipe.repro.split())
        costs[name]["seconds"] = round(time.perf_counter() - began, 1)
        print(f"{name}: {costs[name]['seconds']} s", flush=True)
        shutil.rmtree(clone.root)  # a tracking store knows where it was made, so the copy goes to the same place
        shutil.copytree(built, clone.root, symlinks=True)
    return costs


def write_cifar100(home: Path) -> Path:
    """Write a small lookalike of CIFAR-100 to where the page says that it is unpacked, below the home directory."""
    form = {"train_files": ("train.bin",), "test_file": "test.bin", "label_bytes": 2, "label_byte": 1}
    dataset = dataclasses.replace(CIFAR10, classes=tuple(map(str, range(100))), **form)  # type: ignore[arg-type]
    write_folder(home / "cifar-100-binary", make_files(500, dataset=dataset))
    return home


def make_edit(clone: Clone, recipe: Recipe) -> dict[str, Any]:
    """Edit the files in a copy that has results, and return which ones were touched and which stages are stale, by pipeline file."""
    clone.succeed("bash", "-euo", "pipefail", "-c", recipe.edit)
    touched = [line[3:] for line in clone.succeed("git", "status", "--porcelain", "--untracked-files=all").splitlines()]
    stale = {pipeline: sorted(json.loads(clone.run("dvc", "status", "--json", pipeline).stdout)) for pipeline in PIPELINES}
    names = {pipeline: [stage.removeprefix(f"{pipeline}:") for stage in stages] for pipeline, stages in stale.items()}
    return {"touched": touched, "stale": names}


def as_table(costs: dict[str, dict[str, Any]]) -> str:
    """Return the costs as a Markdown table, in which all stages of a matrix stand as one."""
    lines = ["| to … | touches | stale in dvc.yaml | stale in claims/dvc.yaml | seconds |", "|---|---|---|---|---:|"]
    for name, cost in costs.items():
        stale = [", ".join(dict.fromkeys(f"`{stage.split('@')[0]}`" for stage in cost["stale"][pipeline])) for pipeline in PIPELINES]
        touched = ", ".join(f"`{path}`" for path in cost["touched"])
        lines.append(f"| {name} | {touched} | {stale[0] or '–'} | {stale[1] or '–'} | {cost['seconds']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
