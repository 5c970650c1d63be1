"""What claims/params.yaml may say: studies, and claims with what they are judged by."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from claims.judging.measures import Across, AtMatchedLevel, LargestUsable, Measure
from pipeline.common.errors import PipelineError
from pipeline.common.parameters import StrictModel, explain
from pipeline.common.strict_yaml import read_yaml
from pipeline.training.config import BatchSize, Seed
from pipeline.trials.parameters import Parameters, check_studies, load_parameters
from pipeline.trials.studies import Name, Study

CLAIMS_FILE = Path("claims/params.yaml")
RESULTS = Path("reports/claims")
STUDIES = RESULTS / "studies"
EXACT, TIMED = "mechanisms", "timing"  # stages that measure claims without a study
FEWEST_BLOCKS = 8  # of which a bootstrap interval can be taken

ClaimId = Annotated[str, Field(pattern=r"^[A-Z][0-9]+[a-z]?$")]


class StudyChanges(StrictModel):
    """What a study has instead in the extended set."""

    arms: list[Name] | None = None
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] | None = None
    seeds: list[Seed] | None = None


class DeclaredStudy(StrictModel):
    """A study as it is declared: arms × every combination of the grid's values × seeds."""

    arms: list[Name] = Field(min_length=1)
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]]
    seeds: list[Seed] = Field(min_length=1)
    extended: StudyChanges = StudyChanges()

    def resolve(self, extended: bool) -> Study:
        """Give the study of the default or of the extended set."""
        changes = self.extended.model_dump(exclude_none=True) if extended else {}
        return Study.model_validate({**self.model_dump(exclude={"extended"}), **changes, "log_models": False})


class Timing(StrictModel):
    """How training steps are timed."""

    blocks: int = Field(ge=FEWEST_BLOCKS, le=10_000)
    steps_per_leg: int = Field(ge=1, le=100_000)


class Mechanisms(StrictModel):
    """How the inside of the networks is probed."""

    seed: Seed
    epochs: int = Field(ge=1, le=1000)
    images: int = Field(ge=2, le=1_000_000)
    steps: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    batch_sizes: list[Annotated[BatchSize, Field(ge=2)]] = Field(min_length=1)


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
        """What all terms of the effect have in common, beside the seed: the rest of a study is not of this claim."""
        levels = [term.level for term in self.effect]
        return {key: value for key, value in levels[0].items() if all(level.get(key) == value for level in levels)} if levels else {}


class ClaimsParameters(StrictModel):
    """All of claims/params.yaml, and the common settings and arms of params.yaml."""

    set: Literal["default", "extended"]
    arms: dict[Name, dict[str, Any]]
    declared_studies: dict[Name, DeclaredStudy] = Field(alias="studies")
    timing: Timing
    mechanisms: Mechanisms
    significance: float = Field(gt=0, lt=0.5)
    claims: dict[ClaimId, Claim]
    common: Parameters

    @cached_property
    def studies(self) -> dict[str, Study]:
        """The studies of the chosen set."""
        return {name: study.resolve(self.set == "extended") for name, study in self.declared_studies.items()}

    @cached_property
    def trials(self) -> Parameters:
        """The claims' studies and all arms, as the project's other parameters have them."""
        return self.common.model_copy(update={"arms": {**self.common.arms, **self.arms}, "studies": self.studies})


def load_claims(path: Path = CLAIMS_FILE) -> ClaimsParameters:
    """Read and check claims/params.yaml and params.yaml, every arm, level and claim included.

    Raises:
        PipelineError: a file is missing, is not YAML, repeats a key, or holds a wrong key or value (all are named).
    """
    common = load_parameters(path.parent.parent / "params.yaml")
    try:
        content = read_yaml(path)
        parameters = ClaimsParameters.model_validate({**_mapping(content, path), "common": common})
    except FileNotFoundError:
        raise PipelineError(f"{path}: not found; run from the project's root") from None
    except ValidationError as error:
        raise PipelineError(explain(error, f"{path}: ")) from None
    if twice := sorted(parameters.arms.keys() & common.arms.keys()):
        raise PipelineError(f"{path}: arms.{twice[0]}: is declared in params.yaml already; give this one another name")
    if taken := sorted({EXACT, TIMED} & parameters.declared_studies.keys()):
        raise PipelineError(f"{path}: studies.{taken[0]}: is the name of a stage that measures by itself; give the study another name")
    check_studies(parameters.trials, path)
    for name, claim in parameters.claims.items():
        _check_claim(parameters, claim, f"{path}: claims.{name}")
    return parameters


def _mapping(content: object, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: should hold settings by name; take it back from git")
    if "common" in content:
        raise PipelineError(f"{path}: common: extra inputs are not permitted; remove it")
    return content


def _check_claim(parameters: ClaimsParameters, claim: Claim, where: str) -> None:
    if claim.smallest_effect is not None and claim.smallest_effect < claim.null_effect:
        raise PipelineError(f"{where}.smallest_effect: should be at least null_effect, {claim.null_effect} (got {claim.smallest_effect})")
    if claim.study in (EXACT, TIMED):
        _check_measured_by_a_stage(claim, where)
        return
    if claim.study not in parameters.studies:
        declared = ", ".join([*parameters.studies, EXACT, TIMED])
        raise PipelineError(f"{where}.study: '{claim.study}' is not declared under studies ({declared})")
    if missing := [field for field in ("measure", "effect") if not getattr(claim, field)]:
        raise PipelineError(f"{where}.{missing[0]}: missing; say what of the trials of studies.{claim.study} is compared")
    study = parameters.studies[claim.study]
    if isinstance(claim.measure, AtMatchedLevel) and (unknown := [arm for arm in claim.measure.arms if arm not in study.arms]):
        raise PipelineError(f"{where}.measure.arms: '{unknown[0]}' is not in studies.{claim.study}.arms")
    _check_across(study, claim, where)
    places = {"effect": claim.effect, "premise.effect": claim.premise.effect if claim.premise else []}
    for place, terms in places.items():
        for index, term in enumerate(terms):
            _check_term(study, claim, term, f"{where}.{place}.{index}")


def _check_measured_by_a_stage(claim: Claim, where: str) -> None:
    if extra := [field for field in ("measure", "across", "effect", "premise") if getattr(claim, field)]:
        raise PipelineError(f"{where}.{extra[0]}: the stage {claim.study} measures this claim by itself; remove it")
    if claim.study == TIMED and claim.smallest_effect is None:
        raise PipelineError(f"{where}.smallest_effect: missing; say from which ratio on, as a natural logarithm, it matters")


def _check_across(study: Study, claim: Claim, where: str) -> None:
    if claim.across is None:
        return
    name, place = claim.across.parameter, f"{where}.across.parameter"
    if name not in study.grid:
        raise PipelineError(f"{place}: '{name}' is not in studies.{claim.study}.grid")
    values = study.grid[name]
    if any(isinstance(value, list) for value in values):
        raise PipelineError(f"{place}: studies.{claim.study}.grid.{name} holds lists, over which nothing is taken; choose another")
    numbers = [value for value in values if isinstance(value, int | float) and value > 0]
    if isinstance(claim.across, LargestUsable) and len(numbers) < len(values):
        raise PipelineError(f"{place}: studies.{claim.study}.grid.{name} should hold numbers above 0 alone, for {claim.across.take}")


def _check_term(study: Study, claim: Claim, term: Term, where: str) -> None:
    if term.arm not in study.arms:
        raise PipelineError(f"{where}.arm: '{term.arm}' is not in studies.{claim.study}.arms")
    if unknown := [key for key in term.level if key not in study.grid]:
        raise PipelineError(f"{where}.level.{unknown[0]}: is not in studies.{claim.study}.grid")
    varied = {} if claim.across is None else {claim.across.parameter}
    matching = list(_matching(study, term.level, varied))
    if len(matching) != 1:
        found = f"{len(matching)} levels" if matching else "no level"
        raise PipelineError(f"{where}.level: fits {found} of studies.{claim.study}.grid, and should fit one; name a value for each key")


def _matching(study: Study, level: dict[str, Any], varied: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """Give each level of the study that has these values, those that differ in what is varied once."""
    seen: list[dict[str, Any]] = []
    for candidate in study.levels():
        fixed = {key: value for key, value in candidate.items() if key not in varied}
        if all(fixed.get(key) == value for key, value in level.items()) and fixed not in seen:
            seen.append(fixed)
            yield fixed


if __name__ == "__main__":
    from pipeline.common.command import run

    run(lambda: print("claims/params.yaml is valid:", ", ".join(load_claims().claims)))
