"""Fills jinja templates. The filters put numbers into words."""

from collections.abc import Callable, Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from pipeline.pages import wording

TEMPLATES = Path(__file__).parent / "templates"
FILTERS = (
    wording.arm_label,
    wording.bearing_on_higher,
    wording.change,
    wording.nats,
    wording.number,
    wording.number_cell,
    wording.percent,
    wording.points,
    wording.points_cell,
    wording.reading,
)


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
