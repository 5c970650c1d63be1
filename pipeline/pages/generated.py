"""Generated files and generated blocks of Markdown pages: write them, or check that they are current."""

from pathlib import Path

from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing

README = Path("README.md")
REPORTS = Path("reports/notebook")  # what the stage `report` writes, and the claims' report reads
FIGURES = "figures"


def check_files(files: dict[str, str], folder: Path, remedy: str = "run `dvc repro --force report`") -> None:
    """Compare each file with the one in the folder.

    Raises:
        PipelineError: A file differs, is missing, or is a figure that does not belong there. All are named.
    """
    there = {str(path.relative_to(folder)) for path in (*map(folder.joinpath, files), *(folder / FIGURES).glob("*")) if path.exists()}
    unlike = {name for name in there & files.keys() if (folder / name).read_bytes() != files[name].encode()}
    if names := sorted(unlike | (there ^ files.keys())):
        raise PipelineError(f"{folder}: {', '.join(names)}: not what the measurements beside them give; {remedy}")


def write_files(files: dict[str, str], folder: Path) -> None:
    """Write each file whole, and remove the figures of an earlier report."""
    for name, text in files.items():
        with replacing(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    for path in (folder / FIGURES).glob("*"):
        if f"{FIGURES}/{path.name}" not in files:
            path.unlink()


def update_page(begin: str, end: str, block: str, *, remedy: str, check: bool = False, page: Path = README) -> None:
    """Put a block of Markdown between two marker lines of a page. With `check`, write nothing.

    Raises:
        PipelineError: The markers are missing, or with `check`, the block between them is not current.
    """
    present = page.read_text(encoding="utf-8")
    current = replace_between(present, begin, end, block, page)
    if current == present:
        return
    if check:
        raise PipelineError(f"{page}: what stands after '{begin}' is not current; {remedy}")
    with replacing(page) as path:
        path.write_text(current, encoding="utf-8")


def replace_between(text: str, begin: str, end: str, block: str, page: Path = README) -> str:
    """Return the text of a page with a block of Markdown between its two marker lines.

    Raises:
        PipelineError: The markers are not there, once each and in order.
    """
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end) or begin in rest or end in before + after:
        raise PipelineError(f"{page}: should have the lines '{begin}' and '{end}', once each; put them where the block belongs")
    return f"{before}{begin}\n{block.strip()}\n{end}{after}"
