"""Reads a small YAML file; whatever cannot be read is said in one line, with its place in the file."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.nodes import Node

from pipeline.common.errors import PipelineError

MAXIMUM_DEPTH = 20


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
