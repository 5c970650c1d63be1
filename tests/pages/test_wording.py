import pytest

from pipeline.pages import wording

HIGHER = {"mean": 0.02, "sd": 0.01, "low_95": 0.01, "high_95": 0.03, "n": 5}
LOWER = {"mean": -0.02, "sd": 0.01, "low_95": -0.03, "high_95": -0.01, "n": 5}
UNCLEAR = {"mean": 0.01, "sd": 0.02, "low_95": -0.01, "high_95": 0.03, "n": 5}
ONE_SEED = {"mean": 0.02, "n": 1}


def plain(text):
    return text.replace(wording.SPACE, " ")


@pytest.mark.parametrize(
    ("difference", "phrase"),
    [
        (HIGHER, "raised accuracy by 2.00 points (95 % interval +1.00 to +3.00)"),
        (LOWER, "lowered accuracy by 2.00 points (95 % interval −3.00 to −1.00)"),
        (UNCLEAR, "did not measurably change accuracy (+1.00 points, 95 % interval −1.00 to +3.00)"),
        (ONE_SEED, "changed accuracy by +2.00 points (n = 1, no interval)"),
    ],
)
def test_the_verb_follows_the_interval(difference, phrase):
    assert plain(wording.change(difference, "accuracy")) == phrase


def test_the_reading_follows_the_interval():
    readings = [plain(wording.reading(difference)) for difference in (HIGHER, LOWER, UNCLEAR, ONE_SEED)]
    assert readings == ["higher", "lower", "not distinguishable (interval includes 0)", "not testable with n = 1"]


def test_an_interval_that_touches_zero_settles_nothing():
    assert wording.direction({**HIGHER, "low_95": 0.0}) == wording.direction({**LOWER, "high_95": 0.0}) == "unclear"


def test_one_value_is_shown_without_spread():
    assert plain(wording.percent({"mean": 0.4951, "n": 1})) == "49.5 %"
    assert plain(wording.percent({"mean": 0.4951, "sd": 0.0123, "n": 5})) == "49.5 ± 1.2 %"
