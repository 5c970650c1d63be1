"""How verdicts are put into words: every sentence follows from its numbers, and says no more than they do."""

from collections import Counter
from collections.abc import Iterable

from claims.findings import Verdict
from claims.phrases import join_words, probability, ranges, threshold
from pipeline.wording import MINUS, SPACE

# What a mean above and one below "no difference" is, where a claim has words of its own for it.
DIRECTIONS = {
    "B1": ("validation loss changed less from epoch to epoch with BN", "validation loss changed more from epoch to epoch with BN"),
    "B2a": ("BN came to the level in fewer epochs", "BN took more epochs to the level"),
    "B2b": ("BN stayed usable up to larger learning rates", "BN stayed usable only up to smaller learning rates"),
    "B3a": ("at equal training loss, validation loss was lower with BN", "at equal training loss, validation loss was higher with BN"),
    "B3b": ("BN without dropout validated better than dropout without BN", "BN without dropout validated worse than dropout without BN"),
    "B4": ("the initial scale mattered less with BN", "the initial scale mattered more with BN"),
    "I1a": ("training accuracy was higher with BN", "training accuracy was lower with BN"),
    "I1b": ("validation accuracy was higher with BN", "validation accuracy was lower with BN"),
    "L1": ("a training step took longer with BN", "a training step took less time with BN"),
    "L2": ("dropout did less good, or more harm, with BN than without", "dropout did more good, or less harm, with BN than without"),
    "L3": ("BN lost ground to no BN where batches are tiny", "BN gained ground on no BN where batches are tiny"),
}
UNKNOWN_DIRECTION = ("the effect was on the claim's side", "the effect was on the other side")
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
    direction = DIRECTIONS.get(verdict.id, UNKNOWN_DIRECTION)[verdict.mean < 0] if verdict.mean else "there was no difference"
    left_out = f" ({excluded(verdict)})" if verdict.excluded else ""
    return f"{direction[0].upper()}{direction[1:]}: {_certainty(verdict, significance)}{left_out}."


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
    if verdict.verdict == "true of x̂ only, in training":
        return "True of the normalized values, in training; what the layer gives on has mean β and a standard deviation of about γ's size."
    return "Checked by hand, normalized values and outputs are not what BN's definition says."


def _certainty(verdict: Verdict, significance: float) -> str:
    if verdict.smallest_effect is None:
        return "explored, not tested"
    if verdict.low_95 is None:
        return "one value cannot tell that from chance"
    null, smallest = threshold(verdict.null, verdict.unit), threshold(verdict.smallest_effect, verdict.unit)
    words = _by_margin(null) if verdict.smallest_effect == verdict.null else _by_smallest_effect(verdict, smallest, significance)
    return words.get(verdict.verdict or "", verdict.verdict or "no verdict")


def _by_margin(margin: str) -> dict[str, str]:
    return {
        "supported": f"it keeps within the margin of {margin}",
        "refuted": f"it does not keep within the margin of {margin}",
        "reversed": f"the whole 95{SPACE}% interval lies beyond the margin of {margin}",
        "inconclusive": f"whether it keeps within the margin of {margin} stays open",
    }


def _by_smallest_effect(verdict: Verdict, smallest: str, significance: float) -> dict[str, str]:
    found = verdict.p_above_holm is not None and verdict.p_above_holm <= significance
    undecided = f"whether it reaches the {smallest} that matter stays open"
    return {
        "supported": f"distinguishable from no effect, and at least the {smallest} that matter",
        "true but negligible": f"distinguishable from no effect, but less than the {smallest} that would matter",
        "refuted": f"less than the {smallest} that would matter, and not distinguishable from no effect",
        "reversed": f"the whole 95{SPACE}% interval lies against the claim",
        "inconclusive": f"distinguishable from no effect, but {undecided}"
        if found
        else f"not distinguishable from no effect, and {undecided}",
    }


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
    test_b = "" if verdict.smallest_effect == verdict.null else f"Test B, against an effect of {smallest} or more: {p_below}. "
    return f"Test A, against an effect of {null} or less: {p_above}. {test_b}Standardized effect d_z = {standardized}."


def meaning(verdict: Verdict) -> str:
    """What a verdict says of the notebook's sentence, for this network and these data."""
    if verdict.kind == "exact":
        return "A definition can be checked, and was; whether it helps training is what the other claims are about."
    if verdict.smallest_effect is not None and verdict.smallest_effect == verdict.null:
        margin = threshold(verdict.null, verdict.unit)
        words = {"supported": f"Here the sentence holds: what is given up, if anything, is less than the margin of {margin}."}
    else:
        words = {"supported": "Here the sentence holds, and by an amount that was said beforehand to matter."}
    words |= {
        "true but negligible": "Here the sentence is true, and so little true that by the measure set beforehand it makes no difference.",
        "refuted": "Here an effect as large as would matter can be ruled out. A smaller one is not shown, nor is it ruled out.",
        "reversed": "Here the measurement points the other way: the opposite of the sentence is what was found.",
        "inconclusive": "These trials do not decide it, which speaks neither for the sentence nor against it.",
    }
    return words.get(verdict.verdict or "", "Nothing: there is no verdict.")


def power(verdict: Verdict) -> str:
    """What the number of seeds could have found."""
    parts = []
    if verdict.power is not None and verdict.smallest_effect is not None:
        smallest = threshold(verdict.smallest_effect, verdict.unit)
        parts.append(f"had the true effect been {smallest}, test A would have found it with a power of {verdict.power:.2f}")
    if verdict.detectable is not None:
        parts.append(f"with this spread and n, an effect of {threshold(verdict.detectable, verdict.unit)} is found in 80{SPACE}% of cases")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else "It needs a spread between seeds, of which there is none to judge by."


def answer(ledger: Iterable[Verdict]) -> str:
    """The whole ledger in one sentence, made from counts of verdicts."""
    judged = [verdict for verdict in ledger if verdict.kind != "explored"]
    names = {found: [row.id for row in judged if row.verdict == found] for found in Counter(row.verdict for row in judged)}
    order = sorted(names, key=lambda found: VERDICTS.index(found) if found in VERDICTS else len(VERDICTS))
    counts = [f"{len(names[found])} {_be(found, names[found])} ({', '.join(names[found])})" for found in order]
    return f"Of {len(judged)} claims, {join_words(counts)}."


def _be(found: str | None, names: list[str]) -> str:
    verb = "is" if len(names) == 1 else "are"
    return f"{verb} {found or 'without a verdict'}"
