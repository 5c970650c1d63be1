"""The README and the pages under docs lead where they say."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_lists_every_decision_by_its_number_and_each_has_every_heading():
    decisions = ROOT / "docs/decisions"
    records = [path.name for path in sorted(decisions.glob("[0-9]*.md"))]
    assert re.findall(r"^\| \[\d{4}\]\((.*)\)", (decisions / "README.md").read_text(), re.MULTILINE) == records
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))
    for name in records:
        text = (decisions / name).read_text()
        assert text.startswith(f"# {name[:4]} ")
        for heading in ("Context.", "Decision.", "Observed.", "What would change our mind."):
            assert f"\n**{heading}**" in text, (name, heading)
        assert "\n**Consequences.**" in text, name
