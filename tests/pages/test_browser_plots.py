"""The page of `dvc plots show`, drawn in a browser without a network."""

import re
import shutil
import sys

import pytest

from pipeline.images.cifar10 import CLASSES
from pipeline.pages import plots as plots_page
from pipeline.pages.plotting import ARM_COLOURS, LEVEL_COLOURS
from tests.chromium import browser
from tests.pages.test_plots import ARMS, dvc_plots, read_plots, repository, run  # noqa: F401 - a fixture

pytestmark = pytest.mark.browser

DRAWN = "[...document.querySelectorAll('main > div')].every(plot => plot.querySelector('svg.marks'))"


@pytest.fixture(scope="module")
def prepared(repository):  # noqa: F811
    """The repository as `make setup` leaves it."""
    (repository / ".dvc/plots.html").write_text(plots_page.make_page(), encoding="utf-8")
    run(repository, sys.executable, "-m", "dvc", "config", "--local", "plots.html_template", "plots.html")
    return repository


@pytest.fixture(scope="module")
def tab():
    with browser(1280, 900) as started:
        started.go_offline()
        yield started


def open_plots(tab, said):
    (address,) = re.findall(r"file://\S+index\.html", said)
    tab.open(address)
    tab.wait_for(DRAWN)


def strokes(tab, plot):
    """The colours of the curves in the plot of this name."""
    lines = f"#{plot} svg.marks .mark-line path"
    return set(tab.run("return [...document.querySelectorAll(arguments[0])].map(line => line.getAttribute('stroke'))", lines))


@pytest.mark.parametrize(("arguments", "matrices"), [(("show",), 3), (("diff", "HEAD"), 5)], ids=["show", "diff"])
def test_every_plot_is_drawn_and_nothing_fetched(prepared, tab, arguments, matrices):
    open_plots(tab, dvc_plots(prepared, *arguments))
    assert set(tab.run("return [...document.querySelectorAll('main > div')].map(plot => plot.id)")) == read_plots().keys()
    assert strokes(tab, "accuracy") == strokes(tab, "loss") == set(ARM_COLOURS[: len(ARMS)])
    assert strokes(tab, "batch_size_accuracy") == strokes(tab, "batch_size_loss") == set(LEVEL_COLOURS[:2])
    cells = tab.run("return document.querySelectorAll('#confusion_matrix svg.marks .mark-rect path[stroke=white]').length")
    assert cells == matrices * len(CLASSES) ** 2
    assert tab.requests_elsewhere() == []
    assert tab.console_errors() == []


def test_plots_do_not_widen_the_page_of_a_phone(prepared, tab):
    tab.look(360, 740)
    open_plots(tab, dvc_plots(prepared, "show"))
    assert tab.run("return document.documentElement.scrollWidth") <= 360


def test_without_the_page_dvc_uses_its_own_which_would_be_seen_to_need_the_network(prepared, tab, tmp_path):
    fresh = shutil.copytree(prepared, tmp_path / "fresh", ignore=shutil.ignore_patterns("config.local", "plots.html"))
    dvc_plots(fresh, "show")
    tab.open((fresh / "dvc_plots/index.html").as_uri())
    assert tab.requests_elsewhere() != []
    assert tab.console_errors() != []
