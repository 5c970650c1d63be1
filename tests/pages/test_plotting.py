"""What all figures share."""

import pytest
from matplotlib.figure import Figure

from pipeline.pages.plotting import label_ends, scale_by_ratios


def label(ends, *, by_ratios=False, rows=1, limits=(1, 10)):
    """Label ends on axes of these limits; give each text's place, as a share of the axes' height."""
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots(rows, 1, squeeze=False)[0, 0]
    axes.set_ylim(limits)
    if by_ratios:
        scale_by_ratios(axes)
    label_ends(axes, [(height, text, "black") for text, height in ends.items()])
    to_share = axes.transScale + axes.transLimits
    return {text.get_text(): to_share.transform((1, text.get_position()[1]))[1] for text in axes.texts}


@pytest.mark.parametrize("by_ratios", [False, True])
def test_labels_far_apart_stand_at_their_curves_ends(by_ratios):
    places = label({"low": 2, "high": 5}, by_ratios=by_ratios)
    wanted = {"low": 0.30103, "high": 0.69897} if by_ratios else {"low": 1 / 9, "high": 4 / 9}
    assert places == pytest.approx(wanted)


@pytest.mark.parametrize("by_ratios", [False, True])
def test_labels_at_one_height_are_moved_apart_evenly_and_alike_on_every_scale(by_ratios):
    places = label({"a": 3, "b": 3, "c": 3}, by_ratios=by_ratios)
    middle = 0.477121 if by_ratios else 2 / 9
    assert places["b"] == pytest.approx(middle, rel=1e-4)
    assert places["c"] - middle == pytest.approx(middle - places["a"], rel=1e-4)
    assert 0.04 < places["c"] - middle < 0.1


def test_more_room_is_left_for_two_lines_and_in_lower_panels():
    def gap(*ends, **options):
        first, second = label(dict.fromkeys(ends, 3), **options).values()
        return abs(second - first)

    assert gap("a", "b\nb") == pytest.approx(1.5 * gap("a", "b"))
    assert gap("a", "b", rows=2) == pytest.approx(2 * gap("a", "b"))


@pytest.mark.parametrize("limits", [(0.8, 12), (1.39, 1.91), (0.001, 3)])
def test_a_logarithmic_axis_has_few_plain_ticks(limits):
    axes = Figure().subplots()
    axes.set_ylim(limits)
    scale_by_ratios(axes)
    shown = [tick for tick in axes.get_yticks() if limits[0] <= tick <= limits[1]]
    assert 3 <= len(shown) <= 12
    assert [float(axes.yaxis.get_major_formatter()(tick)) for tick in shown] == pytest.approx(shown)


def test_nothing_to_label_is_no_error():
    assert label({}) == {}
