"""Fills jinja templates. The filters put numbers into words."""

from collections.abc import Callable, Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from pipeline.pages.wording import arm_label, bearing_on_higher, change, nats, number, number_cell, percent, points, points_cell, reading

TEMPLATES = Path(__file__).parent / "templates"
FILTERS = (arm_label, bearing_on_higher, change, nats, number, number_cell, percent, points, points_cell, reading)


def render(template: str, folder: Path = TEMPLATES, /, **context: object) -> str:
    """Fill `<folder>/<template>.jinja`. A name that nothing defines is an error."""
    return make_environment(folder).get_template(f"{template}.jinja").render(context)


def make_environment(*folders: Path, filters: Iterable[Callable[..., object]] = ()) -> Environment:
    """Make an environment for the templates of `folders` and of this room. `filters` are added to those of this room."""
    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {function.__name__: function for function in (*FILTERS, *filters)}
    return environment
