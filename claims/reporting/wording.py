"""How verdicts are put into words: every sentence follows from its numbers, and says no more than they do."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from claims.reporting.findings import Verdict
from claims.reporting.phrases import AS_STATED, effect, join_words, probability, ranges, threshold
from pipeline.pages.wording import MINUS, SPACE, Figures

VERDICTS = ("supported", "true but negligible", "inconclusive", "refuted", "reversed")


def sentence(verdict: Verdict, significance: float) -> str:
    """What was found for a claim, in one sentence; the size of the effect stands beside it."""
    if verdict.kind == "exact" or verdict.mean is None:
        return finding(verdict, significance)
    found = finding(verdict, significance)
    among = (
        "In the only seed"
        if verdict.n == 1
        else f"{'By the medians over' if verdict.kind == 'timed' else 'In the mean of'} {_units(verdict)}"
    )
    return f"{among}, {found if found.startswith('BN') else found[0].lower() + found[1:]}"


def finding(verdict: Verdict, significance: float) -> str:
    """The same for a table, whose caption says what it is a mean of."""
    if verdict.kind == "exact":
        return _of_exact(verdict)
    if verdict.mean is None:
        return f"Nothing could be measured: {excluded(verdict)}."
    direction = verdict.direction or "there was an effect"
    left_out = f" ({excluded(verdict)})" if verdict.excluded else ""
    doubt = f" {premise(verdict)}" if verdict.premise and not _premise_holds(verdict) else ""
    return f"{direction[0].upper()}{direction[1:]}: {_certainty(verdict, significance)}{left_out}.{doubt}"


def premise(verdict: Verdict) -> str:
    """Whether what a claim takes for granted holds, by its interval; "" if it takes nothing for granted."""
    if not verdict.premise:
        return ""
    found = effect(verdict.premise, verdict.unit)
    if _premise_holds(verdict):
        return f"That holds: {found}."
    if verdict.premise.get("high_95", 0.0) < 0:
        return f"But its premise fails, {found}: the verdict stands as announced, and says little of the sentence."
    return f"But whether its premise holds stays open, {found}."


def _premise_holds(verdict: Verdict) -> bool:
    return bool(verdict.premise) and (verdict.premise or {}).get("low_95", 0.0) > 0


def _units(verdict: Verdict) -> str:
    kind = "block" if verdict.kind == "timed" else "seed"
    return f"{verdict.n}{SPACE}{kind}{'s' if verdict.n != 1 else ''}"


def excluded(verdict: Verdict) -> str:
    """Say which seeds are left out, and why."""
    if not verdict.excluded:
        return "no seed is left out"
    seeds = ranges(verdict.excluded)
    left_out = f"seed {seeds} is left out" if len(verdict.excluded) == 1 else f"seeds {seeds} are left out"
    return f"{left_out} for want of a measure"


def _of_exact(verdict: Verdict) -> str:
    if verdict.verdict == AS_STATED:
        return (
            "True of the normalized values, in training and but for ε; what the layer gives on has mean β and a spread of about γ's size."
        )
    return "Checked by hand, normalized values and outputs are not what BN's definition says."


def _certainty(verdict: Verdict, significance: float) -> str:
    if verdict.smallest_effect is None:
        return "explored, not tested"
    if verdict.low_95 is None:
        return "one value cannot tell that from chance"
    if verdict.kind == "tested" and verdict.p_above is None:
        return "without a spread between seeds there is nothing to test it with"
    words = _by_margin(verdict) if verdict.has_margin else _by_smallest_effect(verdict, significance)
    return words.get(verdict.verdict or "", verdict.verdict or "no verdict")


def _by_margin(verdict: Verdict) -> dict[str, str]:
    margin = threshold(verdict.null, verdict.unit)
    return {
        "supported": f"it keeps within the margin of {margin}",
        "refuted": f"it does not keep within the margin of {margin}",
        "reversed": f"the whole 95{SPACE}% interval lies beyond the margin of {margin}",
        "inconclusive": f"whether it keeps within the margin of {margin} stays open",
    }


def _by_smallest_effect(verdict: Verdict, significance: float) -> dict[str, str]:
    smallest, nothing = threshold(verdict.smallest_effect or 0.0, verdict.unit), _nothing(verdict)
    undecided = f"whether it reaches the {smallest} that matter stays open"
    return {
        "supported": f"distinguishable from {nothing}, and at least the {smallest} that matter",
        "true but negligible": f"distinguishable from {nothing}, but less than the {smallest} that would matter",
        "refuted": f"less than the {smallest} that would matter, and not distinguishable from {nothing}",
        "reversed": f"the whole 95{SPACE}% interval lies against the claim",
        "inconclusive": f"{_distinguished(verdict, significance)}{undecided}",
    }


def _distinguished(verdict: Verdict, significance: float) -> str:
    nothing = _nothing(verdict)
    if _is_above(verdict, significance):
        return f"distinguishable from {nothing}, but "
    if verdict.low_95 is not None and verdict.low_95 > verdict.null:
        return f"by itself distinguishable from {nothing}, but not among this many claims, and "
    return f"not distinguishable from {nothing}, and "


def _nothing(verdict: Verdict) -> str:
    return f"an effect of {threshold(verdict.null, verdict.unit)}" if verdict.null else "no effect"


def _is_above(verdict: Verdict, significance: float) -> bool:
    """Whether an effect is known to be above the null effect: by test A, or of times by the interval."""
    if verdict.kind == "timed":
        return verdict.low_95 is not None and verdict.low_95 > verdict.null
    return verdict.p_above_holm is not None and verdict.p_above_holm <= significance


def tests(verdict: Verdict) -> str:
    """Both tests with raw and corrected p, and the standardized effect."""
    if verdict.kind == "timed":
        return f"Judged by its interval alone, a bootstrap over whole blocks (n{SPACE}={SPACE}{verdict.n})."
    if verdict.p_above is None or verdict.smallest_effect is None:
        return "There is nothing to test" + (f" with {_units(verdict)}." if verdict.mean is not None else ".")
    null, smallest = threshold(verdict.null, verdict.unit), threshold(verdict.smallest_effect, verdict.unit)
    standardized = "–" if verdict.d_z is None else f"{verdict.d_z:.2f}".replace("-", MINUS)
    raw, corrected = (verdict.p_above, verdict.p_below), (verdict.p_above_holm, verdict.p_below_holm)
    p_above, p_below = (f"p {probability(p)}, corrected p {probability(holm)}" for p, holm in zip(raw, corrected, strict=True))
    turned = f" Test A turned round: corrected p {probability(verdict.p_reversed_holm)}." if verdict.verdict == "reversed" else ""
    return (
        f"Test A, against an effect of {null} or less: {p_above}. Test B, against an effect of {smallest} or more: {p_below}."
        f"{turned} Standardized effect d_z = {standardized}."
    )


MEANINGS = {
    "supported": "Here the sentence holds, and by an amount that was said beforehand to matter.",
    "true but negligible": "Here the sentence is true, and so little true that by the measure set beforehand it makes no difference.",
    "refuted": "Here an effect as large as would matter can be ruled out. A smaller one is not shown, nor is it ruled out.",
    "reversed": "Here the measurement points the other way: the opposite of the sentence is what was found.",
    "inconclusive": "These trials do not decide it, which speaks neither for the sentence nor against it.",
}
MEANINGS_OF_MARGIN = {
    "supported": "Here the sentence holds: what is given up, if anything, is less than the margin of {margin}.",
    "refuted": "Here more is given up than the margin of {margin}: the sentence does not hold.",
    "reversed": "Here more is given up than the margin of {margin}, and clearly so: the sentence does not hold.",
    "inconclusive": "These trials do not decide whether more is given up than the margin of {margin}.",
}


def meaning(verdict: Verdict) -> str:
    """What a verdict says of the notebook's sentence, for this network and these data."""
    if verdict.kind == "exact":
        return "A definition can be checked, and was; whether it helps training is what the other claims are about."
    words = MEANINGS_OF_MARGIN if verdict.has_margin else MEANINGS
    said = words.get(verdict.verdict or "", "Nothing: there is no verdict.")
    return said.format(margin=threshold(verdict.null, verdict.unit)) if verdict.has_margin else said


def answer(ledger: Iterable[Verdict]) -> str:
    """The whole ledger in one sentence, made from counts of verdicts."""
    judged = [verdict for verdict in ledger if verdict.kind != "explored"]
    said = {found: [row.says for row in judged if row.verdict == found] for found in Counter(row.verdict for row in judged)}
    order = sorted(said, key=lambda found: VERDICTS.index(found) if found in VERDICTS else len(VERDICTS))
    counts = [f"{len(said[found])} {_be(found, said[found])} ({'; '.join(said[found])})" for found in order]
    return f"Of {len(judged)} claims that BN …, {join_words(counts)}."


def _be(found: str | None, said: list[str]) -> str:
    verb = "is" if len(said) == 1 else "are"
    return f"{verb} {found or 'without a verdict'}"


def answer_by_averages(ledger: Iterable[Verdict], recalibrated: Mapping[str, Figures]) -> str:
    """Which claims only fall short with the moving averages that BN stores; "" if there is none.

    `recalibrated` are effects, by claim, as they would be with statistics of the training images.
    """
    short = [verdict for verdict in ledger if verdict.kind == "tested" and verdict.verdict != "supported" and not verdict.has_margin]
    lowest = {verdict.id: recalibrated.get(verdict.id, {}).get("low_95", -math.inf) for verdict in short}
    turned = [verdict.says for verdict in short if lowest[verdict.id] > (verdict.smallest_effect or 0.0)]
    if not turned:
        return ""
    return (
        f"Much of this is the moving averages' doing: with statistics recalibrated on training images in their place, the whole "
        f"95{SPACE}% interval would lie above the smallest effect that matters for {len(turned)} more ({'; '.join(turned)}); "
        "that is explored, not tested."
    )
