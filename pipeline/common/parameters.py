"""How a room declares its section of a parameter file, and how a stage reads the sections that it uses."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.common.errors import PipelineError
from pipeline.common.strict_yaml import read_yaml

PARAMETERS_FILE = Path("params.yaml")


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
