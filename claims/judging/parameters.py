"""The sections `significance` and `claims` of claims/params.yaml."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from claims.judging.kinds import Across, AtMatchedLevel, LargestUsable, Measure
from claims.paths import CLAIMS_FILE
from claims.studies.parameters import Studies
from pipeline.common.errors import PipelineError
from pipeline.common.parameters import Sections, StrictModel, read_sections
from pipeline.trials.studies import Name, Study

EXACT, TIMED = "mechanisms", "timing"  # stages that measure claims without a study

ClaimId = Annotated[str, Field(pattern=r"^[A-Z][0-9]+[a-z]?$")]


class Term(StrictModel):
    """One trial of a seed in an effect: the arm at the level, times the weight."""

    weight: float
    arm: Name
    level: dict[str, Any] = Field(default_factory=dict)


class Premise(StrictModel):
    """What a claim takes for granted: an effect, of the claim's own measure, that should be above 0."""

    says: str = Field(min_length=1)
    effect: list[Term] = Field(min_length=1)


class Claim(StrictModel):
    """A sentence of the notebook, its metric, and the smallest effect that would matter.

    `if_above` and `if_below` say in words what a mean effect above 0, or below, has shown.
    """

    says: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    unit: Literal["accuracy", "log_ratio", "nats", "decades", "exact"]
    null_effect: float = 0.0
    smallest_effect: float | None = None
    study: Name
    measure: Measure | None = None
    across: Across | None = None
    effect: list[Term] = Field(default_factory=list)
    premise: Premise | None = None
    if_above: str = "the effect was on the claim's side"
    if_below: str = "the effect was on the other side"
    literature: str
    citation: str

    @property
    def kind(self) -> Literal["exact", "timed", "tested", "explored"]:
        """How it is judged: exactly, by timings, by tests over seeds, or not at all."""
        if self.study in (EXACT, TIMED):
            return "exact" if self.study == EXACT else "timed"
        return "explored" if self.smallest_effect is None else "tested"

    @property
    def level(self) -> dict[str, Any]:
        """What the levels of all terms have in common. The rest of the study does not belong to this claim."""
        levels = [term.level for term in self.effect]
        return {key: value for key, value in levels[0].items() if all(level.get(key) == value for level in levels)} if levels else {}

    @property
    def arms(self) -> list[str]:
        """The arms of the effect, each once."""
        return list(dict.fromkeys(term.arm for term in self.effect))


class ClaimSections(Sections):
    """The sections of claims/params.yaml that say what is judged, and how strictly."""

    significance: float = Field(gt=0, lt=0.5)
    claims: dict[ClaimId, Claim]


def read_claims(studies: Studies, path: Path = CLAIMS_FILE) -> ClaimSections:
    """Read the claims, and check that each fits the study that measures it.

    Raises:
        PipelineError: The file is missing, is not YAML, repeats a key, or holds a wrong key or value.
    """
    sections = read_sections(ClaimSections, path)
    for name, claim in sections.claims.items():
        _check_claim(studies, claim, f"{path}: claims.{name}")
    return sections


def _check_claim(studies: Studies, claim: Claim, where: str) -> None:
    if claim.smallest_effect is not None and claim.smallest_effect < claim.null_effect:
        raise PipelineError(f"{where}.smallest_effect: should be at least null_effect, {claim.null_effect} (got {claim.smallest_effect})")
    if claim.study in (EXACT, TIMED):
        if extra := [field for field in ("measure", "across", "effect", "premise") if getattr(claim, field)]:
            raise PipelineError(f"{where}.{extra[0]}: the stage {claim.study} measures this claim by itself; remove it")
        if claim.study == TIMED and claim.smallest_effect is None:
            raise PipelineError(f"{where}.smallest_effect: missing; say from which ratio on, as a natural logarithm, it matters")
        return
    if claim.study not in studies.declared:
        declared = ", ".join([*studies.declared, EXACT, TIMED])
        raise PipelineError(f"{where}.study: '{claim.study}' is not declared under studies ({declared})")
    if missing := [field for field in ("measure", "effect") if not getattr(claim, field)]:
        raise PipelineError(f"{where}.{missing[0]}: missing; say what of the trials of studies.{claim.study} is compared")
    study = studies.declared[claim.study]
    if isinstance(claim.measure, AtMatchedLevel) and (unknown := [arm for arm in claim.measure.arms if arm not in study.arms]):
        raise PipelineError(f"{where}.measure.arms: '{unknown[0]}' is not in studies.{claim.study}.arms")
    if claim.across is not None:
        name, place = claim.across.parameter, f"{where}.across.parameter"
        grid = f"studies.{claim.study}.grid"
        if name not in study.grid:
            raise PipelineError(f"{place}: '{name}' is not in {grid}")
        if any(isinstance(value, list) for value in study.grid[name]):
            raise PipelineError(f"{place}: {grid}.{name} holds lists, over which nothing is taken; choose another")
        if isinstance(claim.across, LargestUsable) and not all(isinstance(value, int | float) and value > 0 for value in study.grid[name]):
            raise PipelineError(f"{place}: {grid}.{name} should hold numbers above 0 alone, for {claim.across.take}")
    for place, terms in {"effect": claim.effect, "premise.effect": claim.premise.effect if claim.premise else []}.items():
        for index, term in enumerate(terms):
            _check_term(study, claim, term, f"{where}.{place}.{index}")


def _check_term(study: Study, claim: Claim, term: Term, where: str) -> None:
    if term.arm not in study.arms:
        raise PipelineError(f"{where}.arm: '{term.arm}' is not in studies.{claim.study}.arms")
    if unknown := [key for key in term.level if key not in study.grid]:
        raise PipelineError(f"{where}.level.{unknown[0]}: is not in studies.{claim.study}.grid")
    matching: list[dict[str, Any]] = []  # levels with the term's values; those that differ only in what is reduced count once
    for level in study.levels():
        fixed = {key: value for key, value in level.items() if not claim.across or key != claim.across.parameter}
        if fixed not in matching and all(fixed.get(key) == value for key, value in term.level.items()):
            matching.append(fixed)
    if len(matching) != 1:
        found = f"{len(matching)} levels" if matching else "no level"
        raise PipelineError(f"{where}.level: fits {found} of studies.{claim.study}.grid, and should fit one; name a value for each key")
