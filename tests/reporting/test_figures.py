import re
from xml.etree import ElementTree

import pytest

from pipeline.reporting.page import make_report
from pipeline.reporting.tables import read_stage_outputs
from pipeline.trials.parameters import load_parameters
from tests.synthetic_results import write_results

NAMES = ["paired_differences", "accuracy", "loss", "recalibration", "batch_sizes", "confusion_matrices", "class_scores"]


def draw(folder, **shape):
    with pytest.MonkeyPatch.context() as patch:
        write_results(folder, **shape)
        patch.chdir(folder)
        parameters = load_parameters()
        files = make_report(parameters, read_stage_outputs(parameters))
        return {name: text for name, text in files.items() if name.endswith(".svg")}


@pytest.fixture(scope="module")
def svgs(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def svgs_again(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("results_again"))


def texts(svg):
    return " ".join("".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text"))


def test_every_figure_is_drawn(svgs):
    assert list(svgs) == [f"figures/{name}.svg" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_results_give_the_same_bytes(svgs, svgs_again, name):
    assert svgs[f"figures/{name}.svg"] == svgs_again[f"figures/{name}.svg"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched_from_elsewhere(svgs, name):
    svg = svgs[f"figures/{name}.svg"]
    assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)"', svg))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", svg))
    assert "@import" not in svg


@pytest.mark.parametrize("name", ["accuracy", "loss", "confusion_matrices", "class_scores"])
def test_arms_are_labelled_directly_and_as_text(svgs, name):
    assert "no BN" in texts(svgs[f"figures/{name}.svg"])


def test_axes_carry_units(svgs):
    assert "accuracy (%)" in texts(svgs["figures/accuracy.svg"])
    assert "cross-entropy (nats)" in texts(svgs["figures/loss.svg"])
    assert "weight updates (thousands)" in texts(svgs["figures/batch_sizes.svg"])


def test_one_seed_and_one_epoch_can_be_drawn(tmp_path):
    for svg in draw(tmp_path, seeds=(3,), epochs=1).values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")
