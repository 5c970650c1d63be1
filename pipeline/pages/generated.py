"""Generated files and generated blocks of Markdown pages: write them, or check that they are current."""

from pathlib import Path

from pipeline.common.errors import PipelineError
from pipeline.common.files import replacing

README = Path("README.md")
REPORTS = Path("reports/notebook")  # what the stage `report` writes, and the claims' report reads
FIGURES = "figures"


def update_files(files: dict[str, str], folder: Path, command: str, *, check: bool = False) -> None:
    """Write each file whole, as `command` makes it, and remove the figures of an earlier report. With `check`, write nothing.

    Raises:
        PipelineError: With `check`, a file differs, is missing, or is a figure that does not belong there. All are named.
    """
    paths = {*map(folder.joinpath, files), *(folder / FIGURES).glob("*")}
    there = {str(path.relative_to(folder)): path for path in paths if path.exists()}
    if check:
        unlike = {name for name in there.keys() & files.keys() if there[name].read_bytes() != files[name].encode()}
        if names := sorted(unlike | (there.keys() ^ files.keys())):
            raise PipelineError(f"{folder}: {', '.join(names)}: not what the measurements beside them give; run `{command}`")
        return
    for name, text in files.items():
        with replacing(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    for name in there.keys() - files.keys():
        there[name].unlink()


def update_page(name: str, command: str, block: str, *, check: bool = False, page: Path = README) -> None:
    """Put a block of Markdown, which `command` makes, between the two marker lines of its name. With `check`, write nothing.

    Raises:
        PipelineError: The markers are not there, once each and in order, or with `check`, the block between them is not current.
    """
    begin, end = f"<!-- {name}: made by {command} -->", f"<!-- end of {name} -->"
    present = page.read_text(encoding="utf-8")
    before, found_begin, rest = present.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end) or begin in rest or end in before + after:
        raise PipelineError(f"{page}: should have the lines '{begin}' and '{end}', once each; put them where the block belongs")
    current = f"{before}{begin}\n{block.strip()}\n{end}{after}"
    if current != present and check:
        raise PipelineError(f"{page}: what stands after '{begin}' is not current; run `{command}`")
    if current != present:
        with replacing(page) as path:
            path.write_text(current, encoding="utf-8")
