"""The two reports as a reader's browser shows them: on a phone, a tablet and a desk, light and dark, on paper and by keyboard."""

import io
import re
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from pipeline.pages.html import make_page
from tests.chromium import browser
from tests.conftest import ROOT

pytestmark = pytest.mark.browser

REPORTS = {name: ROOT / name / "report.html" for name in ("reports/notebook", "reports/claims")}
FIGURES = sorted(path for page in REPORTS.values() for path in (page.parent / "figures").glob("*.svg"))
SCREENS = {"phone": (360, 740), "tablet": (768, 1024), "desk": (1280, 800)}
PRINTED = (717, 1045)  # what A4 leaves within Chromium's margins, in CSS pixels
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SOURCES = {"arxiv.org", "github.com", "www.cs.toronto.edu"}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="590pt" height="200pt"><path d="M0 0H790V270H0z" fill="white"/></svg>'
SMALL = f"""# A small page

**The question.** Is it?

![A white box.](figures/box.svg)

**Figure 1.** A box.

**Table 1.** Wide.

| {" | ".join(f"a-long-word-{column}" for column in range(30))} |
|{"---:|" * 30}
| {" | ".join("1234567890" for _ in range(30))} |

$$
{" + ".join(f"x_{{{index}}}" for index in range(60))}
$$
"""


@pytest.fixture(scope="module")
def tab():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def axe():
    found = sorted((ROOT / ".cache").glob("axe-core-*/axe.min.js"))
    if not found:
        pytest.fail("axe-core was not found; run `make test-browser`, which gets it", pytrace=False)
    return found[-1].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "page.html"
    path.write_text(make_page(SMALL, {"figures/box.svg": SVG}), encoding="utf-8")
    return path


def spoil(page: Path, folder: Path, *change: str) -> Path:
    """A copy of the page with one text in place of another."""
    html = page.read_text(encoding="utf-8")
    assert change[0] in html
    (folder / "spoiled.html").write_text(html.replace(*change), encoding="utf-8")
    return folder / "spoiled.html"


def show(tab, page, screen="desk", **look):
    tab.look(*SCREENS[screen], **look)
    tab.open(page.as_uri())


def violations(tab, axe):
    """The rules that axe-core finds broken, each with the first element that breaks it."""
    tab.run(axe)
    found = tab.run("return axe.run(document, {runOnly: arguments[0], resultTypes: ['violations']})", RULES)
    assert len(found["passes"]) > 15
    return {rule["id"]: rule["nodes"][0]["html"][:200] for rule in found["violations"]}


def too_wide(tab):
    """How much wider the page is than the screen."""
    return tab.run("return document.documentElement.scrollWidth - innerWidth")


def hidden_sideways(tab):
    """Elements that stick out of the screen although nothing around them scrolls."""
    return tab.run("""
        const scrolls = element => element && (getComputedStyle(element).overflowX != 'visible' || scrolls(element.parentElement));
        const sticksOut = element => element.getBoundingClientRect().right > innerWidth + 1;
        return [...document.querySelectorAll('main *')]
            .filter(element => sticksOut(element) && !scrolls(element)).map(element => element.outerHTML.slice(0, 200));
    """)


def unreachable(tab):
    """Boxes that scroll sideways but cannot be reached by Tab, not even by a link inside."""
    return tab.run("""
        return [...document.querySelectorAll('body *')]
            .filter(box => box.scrollWidth > box.clientWidth + 1 && ['auto', 'scroll'].includes(getComputedStyle(box).overflowX))
            .filter(box => box.tabIndex < 0 && !box.querySelector('a[href]')).map(box => box.outerHTML.slice(0, 200));
    """)


def brightness(tab):
    """Mean of all pixels on screen, from 0 (black) to 255."""
    return np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("L")).mean()


@pytest.mark.parametrize(("report", "screen"), [*product(REPORTS, SCREENS)])
def test_only_boxes_scroll_sideways_and_every_box_can_be_reached_by_keyboard(tab, report, screen):
    show(tab, REPORTS[report], screen)
    assert too_wide(tab) <= 0
    assert hidden_sideways(tab) == []
    assert unreachable(tab) == []


@pytest.mark.parametrize("screen", SCREENS)
def test_wide_tables_and_formulas_do_not_widen_a_page(tab, small, screen):
    show(tab, small, screen)
    assert tab.run(
        "return ['.table', '.formula'].map(name => document.querySelector(name)).every(box => box.scrollWidth > box.clientWidth)"
    )
    assert too_wide(tab) <= 0
    assert hidden_sideways(tab) == []


def test_a_page_that_is_too_wide_would_be_seen(tab, small, tmp_path):
    show(tab, spoil(small, tmp_path, "overflow-x: auto", "overflow-x: visible"), "phone")
    assert too_wide(tab) > 0
    assert hidden_sideways(tab) != []


@pytest.mark.parametrize("report", REPORTS)
def test_the_first_screen_has_the_question_the_answer_and_the_figure(tab, report):
    show(tab, REPORTS[report])
    ends = tab.run("return [...document.querySelectorAll('h1, main > p')].slice(0, 3).map(part => part.getBoundingClientRect().bottom)")
    starts = tab.run("return [...document.querySelectorAll('main > p')].slice(0, 2).map(part => part.textContent.split('.')[0])")
    assert starts == ["The question", "The short answer"]
    assert max(ends) < 800
    assert tab.run("return document.querySelector('figure img').getBoundingClientRect().top") < 800 - 200


@pytest.mark.parametrize("report", REPORTS)
def test_on_a_phone_the_title_stands_at_the_top_and_figures_stay_legible(tab, report):
    show(tab, REPORTS[report], "phone")
    assert tab.run("return document.querySelector('h1').getBoundingClientRect().top") < 150
    assert tab.run("return Math.min(...[...document.querySelectorAll('figure img')].map(image => image.clientWidth))") >= 600
    assert tab.run("return document.querySelector('caption').getBoundingClientRect().width") <= 360


@pytest.mark.parametrize(("report", "screen"), [*product(REPORTS, ("phone", "desk"))])
def test_the_page_is_light_or_dark_as_the_reader_likes_it_figures_included(tab, report, screen):
    show(tab, REPORTS[report], screen)
    tab.run("document.querySelector('figure').scrollIntoView()")
    assert brightness(tab) > 220
    tab.look(*SCREENS[screen], dark=True)
    assert brightness(tab) < 60


@pytest.mark.parametrize(("report", "screen", "dark"), [*product(REPORTS, ("phone", "desk"), (False, True))])
def test_axe_finds_nothing(tab, axe, report, screen, dark):
    show(tab, REPORTS[report], screen, dark=dark)
    assert violations(tab, axe) == {}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (('alt="A white box."', ""), "image-alt"),
        (('<html lang="en">', "<html>"), "html-has-lang"),
        (("--quiet: #55585e", "--quiet: #bbb"), "color-contrast"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_axe_would_find_what_is_spoiled(tab, axe, small, tmp_path, change, rule):
    show(tab, small)
    assert violations(tab, axe) == {}
    show(tab, spoil(small, tmp_path, *change))
    assert violations(tab, axe).keys() == {rule}


@pytest.mark.parametrize("report", REPORTS)
def test_nothing_is_fetched_and_nothing_complained_of(tab, report):
    show(tab, REPORTS[report])
    tab.run("scrollTo(0, document.body.scrollHeight)")
    requests = tab.requests()
    assert REPORTS[report].as_uri() in requests
    assert {urlsplit(url).scheme for url in requests} <= {"file", "data"}
    assert len([url for url in requests if url.startswith("file:")]) == 1
    assert tab.console_errors() == []


def test_a_request_would_be_seen_and_the_page_forbids_it_itself(tab, small, tmp_path):
    elsewhere = "http://127.0.0.1:9/pixel.png"
    page = spoil(small, tmp_path, "</main>", f'<img src="{elsewhere}" alt="Pixel"></main>')
    show(tab, page)
    assert "Content Security Policy" in "".join(tab.console_errors())
    show(tab, spoil(page, tmp_path, "Content-Security-Policy", "Another"))
    assert tab.requests_elsewhere() == [elsewhere]
    assert tab.console_errors() != []


@pytest.mark.parametrize("report", REPORTS)
def test_every_image_is_drawn_and_told_and_every_table_has_a_caption(tab, report):
    show(tab, REPORTS[report])
    images = tab.run("return [...document.images].map(image => [image.complete && image.naturalWidth, image.alt.length])")
    assert len(images) >= 7
    assert all(width > 0 and told > 20 for width, told in images)
    assert tab.run("return [...document.querySelectorAll('table')].every(table => table.caption?.textContent.startsWith('Table '))")


@pytest.mark.parametrize("figure", FIGURES, ids=lambda path: path.stem)
def test_texts_in_a_figure_do_not_overlap_or_leave_it(tab, figure):
    tab.look(900, 800)
    tab.open(figure.as_uri())
    crossing = tab.run("""
        const whole = document.documentElement.getBoundingClientRect();
        const texts = [...document.querySelectorAll('text')].filter(text => !/rotate\\(-?[1-9]/.test(text.getAttribute('transform')))
            .map(text => [text.textContent, text.getBoundingClientRect()]);
        const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.35 * Math.min(a.height, b.height);
        const inside = box => box.left > -1 && box.right < whole.right + 1 && box.top > -1 && box.bottom < whole.bottom + 1;
        return texts.flatMap(([text, box], index) => [
            ...texts.slice(index + 1).filter(([, other]) => meet(box, other)).map(([other]) => `${text} / ${other}`),
            ...(inside(box) ? [] : [text]),
        ]);
    """)
    assert crossing == []


@pytest.mark.parametrize("report", REPORTS)
def test_tab_leads_first_to_the_skip_link_and_it_to_the_report(tab, report):
    show(tab, REPORTS[report])
    tab.press("\ue004")  # Tab
    assert tab.run("return document.activeElement.textContent") == "Skip to the report"
    assert tab.run("const box = document.activeElement.getBoundingClientRect(); return box.left >= 0 && box.top >= 0")
    tab.press("\ue007")  # Enter
    tab.wait_for("location.hash == '#content'")
    tab.press("\ue004")
    assert tab.run("return document.getElementById('content').contains(document.activeElement)")


def test_a_table_is_scrolled_by_the_arrow_keys_and_keeps_its_row_names_and_caption_in_view(tab, small):
    show(tab, small, "phone")
    tab.run("document.querySelector('.table').focus()")
    tab.press("\ue014")  # right
    tab.wait_for("document.querySelector('.table').scrollLeft > 0")
    assert tab.run("return ['tbody th', 'caption'].map(name => document.querySelector(name).getBoundingClientRect().left)") == [20, 20]


@pytest.mark.parametrize("report", REPORTS)
def test_paper_holds_everything_and_cuts_no_figure_and_no_row(tab, report):
    tab.look(*PRINTED, on_paper=True)
    tab.open(REPORTS[report].as_uri())
    assert too_wide(tab) <= 0
    assert hidden_sideways(tab) == []
    assert (
        tab.run("return Math.max(...[...document.querySelectorAll('figure, tr')].map(part => part.getBoundingClientRect().height))") < 1000
    )
    assert tab.run("return [...document.querySelectorAll('figure, tr')].every(part => getComputedStyle(part).breakInside == 'avoid')")
    assert not tab.run("return document.querySelector('nav').checkVisibility()")
    pages = len(re.findall(rb"/Type\s*/Page\b", tab.pdf()))
    height = tab.run("return document.documentElement.scrollHeight")
    assert height / PRINTED[1] <= pages < 1.5 * height / PRINTED[1] + 2


def test_a_dark_reader_prints_black_on_white(tab, small):
    tab.look(*PRINTED, dark=True, on_paper=True)
    tab.open(small.as_uri())
    assert brightness(tab) > 220


def headings(markdown: str) -> set[str]:
    """What GitHub makes of a text's headings."""
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)}


def targets(path: Path) -> set[str]:
    """Where links into a file can lead: ids of a page, headings of Markdown."""
    text = path.read_text(encoding="utf-8")
    return set(re.findall(r' id="([^"]*)"', text)) if path.suffix == ".html" else headings(text)


@pytest.mark.parametrize(("report", "kind"), [*product(REPORTS, (".html", ".md"))])
def test_every_link_leads_somewhere(report, kind):
    page = REPORTS[report].with_suffix(kind)
    pattern = r'<a [^>]*href="([^"]*)"' if kind == ".html" else r"\]\(([^)\s]+)\)"
    links = set(re.findall(pattern, page.read_text(encoding="utf-8")))
    assert len(links) > 10
    for link in links:
        address = urlsplit(link)
        if address.scheme:
            assert (address.scheme, address.netloc in SOURCES, bool(address.path.strip("/"))) == ("https", True, True), link
        else:
            target = page.parent / address.path if address.path else page
            assert target.is_file(), link
            assert not address.fragment or address.fragment in targets(target), link
            assert kind == ".md" or target.suffix != ".md", f"{link}: a browser shows Markdown as plain text"
