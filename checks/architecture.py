"""Draw the way of the data into docs/architecture.md: a Mermaid flowchart of what dvc.yaml and claims/dvc.yaml declare."""

import argparse
import os
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checks.lock import PIPELINES
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.common.parameters import PARAMETERS_FILE
from pipeline.common.strict_yaml import read_yaml
from pipeline.pages.generated import update_page

PAGE = Path("docs/architecture.md")
BEGIN = "<!-- picture: made by python -m checks.architecture -->"
END = "<!-- end of picture -->"
NOT_DATA = (".py", ".jinja", "/templates")  # code, of which each stage's module tells more than a picture could
LABEL_WIDTH = 26  # characters; Mermaid would break a wider line itself, and not between names


@dataclass(frozen=True)
class Stage:
    """A stage as its pipeline file declares it, one of a matrix or a foreach once; all paths from the project's root."""

    pipeline: str
    name: str
    repeated: str
    parameters: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def node(self) -> str:
        """Its name in the picture: both pipelines have a stage `report`."""
        return _node(self.pipeline, self.name)


def main() -> None:
    """Draw the picture into the page, or with --check only compare."""
    parser = argparse.ArgumentParser(prog="python -m checks.architecture", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the picture is not current")
    check = parser.parse_args().check
    update_page(BEGIN, END, draw(read_stages()), check=check, remedy="run `python -m checks.architecture`", page=PAGE)


def read_stages(root: Path = Path()) -> list[Stage]:
    """Read every stage of both pipeline files, in the order of their declaration.

    Raises:
        PipelineError: a file is not YAML, or declares no stages as DVC wants them.
    """
    return [stage for pipeline in PIPELINES for stage in _read_pipeline(root, pipeline)]


def _read_pipeline(root: Path, pipeline: str) -> list[Stage]:
    content: Any = read_yaml(root / pipeline)
    try:
        return [_as_stage(pipeline, name, declared) for name, declared in content["stages"].items()]
    except (TypeError, KeyError, AttributeError) as error:
        raise PipelineError(f"{pipeline}: not as DVC reads it ({type(error).__name__}: {error}); ask `dvc stage list {pipeline}`") from None


def _as_stage(pipeline: str, name: str, declared: dict[str, Any]) -> Stage:
    stage = declared.get("do", declared)
    folder = Path(pipeline).parent / stage.get("wdir", "")

    def paths(entries: Iterable[str | dict[str, Any]]) -> tuple[str, ...]:
        return tuple(_readable(os.path.normpath(folder / path)) for path in map(_path_of, entries))

    parameters = [entry if isinstance(entry, dict) else str(PARAMETERS_FILE) for entry in stage.get("params", [])]
    reads = [path for path in paths(stage.get("deps", [])) if not path.endswith(NOT_DATA)]
    return Stage(pipeline, name, _repeated(declared), tuple(dict.fromkeys(paths(parameters))), tuple(reads), paths(stage.get("outs", [])))


def _path_of(entry: str | dict[str, Any]) -> str:
    """Of an entry with options, such as `{path: {cache: false}}`, the path."""
    return entry if isinstance(entry, str) else next(iter(entry))


def _readable(path: str) -> str:
    """Write `results/${item.arm}` as `results/{arm}`."""
    return re.sub(r"\$\{(?:item\.)?([^}]*)\}", r"{\1}", path)


def _repeated(declared: dict[str, Any]) -> str:
    if "matrix" in declared:
        return f"for each {', '.join(declared['matrix'])}"
    several = declared.get("foreach", "")
    named = _readable(several).strip("{}") if isinstance(several, str) else ", ".join(map(str, several))
    return f"for each of {named}" if named else ""


def draw(stages: list[Stage]) -> str:
    """Draw stages as boxes, data as rounded boxes and files of parameters as slanted ones, in a fenced Mermaid flowchart."""
    parameters = dict.fromkeys(path for stage in stages for path in stage.parameters)
    written = [path for stage in stages for path in stage.writes]
    read = dict.fromkeys(path for stage in stages for path in stage.reads if path not in parameters)
    found = [path for path in read if not any(_meet(path, output) for output in written)]
    lines = [f'{_node(path)}[/"{path}"/]' for path in parameters] + [f'{_node(path)}("{path}")' for path in found]
    # All nodes before all arrows: Mermaid puts a node where it is first named.
    for pipeline in dict.fromkeys(stage.pipeline for stage in stages):
        inside = [line for stage in stages if stage.pipeline == pipeline for line in _draw_nodes(stage, stages)]
        lines += [f'subgraph {_node(pipeline)}["{pipeline}"]', *_indented(inside), "end"]
    lines += [f"{_node(path)} -.-> {' & '.join(stage.node for stage in stages if path in stage.parameters)}" for path in parameters]
    lines += [f"{_node(path)} --> {' & '.join(stage.node for stage in stages if path in stage.reads)}" for path in found]
    lines += [line for stage in stages for line in _draw_arrows(stage, stages)]
    return "\n".join(["```mermaid", "flowchart LR", *_indented(lines), "```"])


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _draw_nodes(stage: Stage, stages: list[Stage]) -> Iterator[str]:
    yield f'{stage.node}["{"<br/>".join(filter(None, [f"<b>{stage.name}</b>", stage.repeated]))}"]'
    yield from (f'{_node(paths[0])}("{_label(paths)}")' for paths in _by_readers(stage, stages).values())


def _draw_arrows(stage: Stage, stages: list[Stage]) -> Iterator[str]:
    outputs = _by_readers(stage, stages)
    yield f"{stage.node} --> {' & '.join(_node(paths[0]) for paths in outputs.values())}"
    yield from (f"{_node(paths[0])} --> {' & '.join(readers)}" for readers, paths in outputs.items() if readers)


def _by_readers(stage: Stage, stages: list[Stage]) -> dict[tuple[str, ...], list[str]]:
    """Group what a stage writes by the stages that read it: what the same ones read is drawn as one."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for path in stage.writes:
        readers = tuple(other.node for other in stages if any(_meet(path, read) for read in other.reads))
        groups.setdefault(readers, []).append(path)
    return groups


def _meet(path: str, other: str) -> bool:
    """Whether one is the other, or in it."""
    return Path(path).is_relative_to(other) or Path(other).is_relative_to(path)


def _label(paths: list[str]) -> str:
    if len(paths) == 1:
        return paths[0]
    folder = os.path.commonpath(paths)
    names = ", ".join(os.path.relpath(path, folder) for path in paths)
    return "<br/>".join([f"{folder}/", *textwrap.wrap(names, LABEL_WIDTH, break_on_hyphens=False)])


def _node(*names: str) -> str:
    return re.sub(r"\W+", "_", "_".join(names)).strip("_")


if __name__ == "__main__":
    run(main)
