"""How a room declares its section of a parameter file, and how a stage reads the sections that it uses."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.nodes import Node

from pipeline.common.errors import PipelineError

PARAMETERS_FILE = Path("params.yaml")
MAXIMUM_DEPTH = 20  # of YAML


class StrictModel(BaseModel):
    """A section: unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Sections(BaseModel):
    """The sections of a parameter file that one stage uses. It does not look at the others; `checks.parameters` does."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


SomeSections = TypeVar("SomeSections", bound=BaseModel)


def read_sections(sections: type[SomeSections], path: Path = PARAMETERS_FILE) -> SomeSections:
    """Read sections of a parameter file.

    Raises:
        PipelineError: The file is missing, is not YAML, repeats a key, or one of the sections holds a wrong key or value.
            All wrong keys are named.
    """
    try:
        return sections.model_validate(read_yaml(path))
    except FileNotFoundError:
        raise PipelineError(f"{path}: not found; run from the project's root") from None
    except ValidationError as error:
        raise PipelineError(explain(error, f"{path}: ")) from None


class _Bounded(Composer):
    """Refuses what lets a file of a few lines stand for gigabytes, or nest deeper than Python's stack."""

    def compose_node(self, parent: object, index: object) -> object:
        event = self.parser.peek_event()
        if self.depth >= MAXIMUM_DEPTH:
            raise ComposerError(None, None, f"nested more than {MAXIMUM_DEPTH} deep", event.start_mark)
        if event.anchor is not None:
            raise ComposerError(None, None, "anchors (&) and aliases (*) are not allowed; write the value out", event.start_mark)
        return super().compose_node(parent, index)


class _NamingPlaces(SafeConstructor):
    """Says where a value stands that is not what its form or tag promises, such as 2020-13-45 or `!!int abc`."""

    def construct_object(self, node: Node, deep: bool = False) -> object:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int):
                str(value)  # refused by Python when there are too many digits for any message to show
        except (ValueError, LookupError, TypeError) as error:
            problem = f"not a value of the type {str(node.tag).rpartition(':')[-1]} ({error})"
            raise ConstructorError(None, None, problem, node.start_mark) from error
        return value


def read_yaml(path: Path) -> object:
    """Read the file's one document.

    Raises:
        PipelineError: it is not YAML, or repeats a key, has an anchor or is nested too deeply.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer, yaml.Constructor = _Bounded, _NamingPlaces
    content = path.read_bytes()
    try:
        return yaml.load(content.decode())
    except Exception as error:
        raise PipelineError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def explain(error: ValidationError, place: str) -> str:
    """Return in one line which keys are wrong and why. `place` stands before each key."""
    faults = []
    for fault in error.errors():
        parts = (part for part in fault["loc"] if part != "[key]")
        key = ".".join(str(part) if str(part).isprintable() else repr(part) for part in parts)
        shown = "" if fault["type"] == "missing" else f" (got {fault['input']!r:.60})"
        faults.append(f"{place}{key or 'the whole file'}: {fault['msg'].removeprefix('Value error, ')}{shown}")
    return "; ".join(faults)


def flatten(settings: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield each single setting with its dotted key. A list of plain values counts as one setting."""
    if isinstance(settings, dict) and settings:
        for name, value in settings.items():
            yield from flatten(value, f"{key}.{name}" if key else str(name))
    elif isinstance(settings, list) and any(isinstance(item, dict) for item in settings):
        for index, item in enumerate(settings):
            yield from flatten(item, f"{key}[{index}]")
    else:
        yield key, settings
