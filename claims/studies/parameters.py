"""The sections `set`, `arms` and `studies` of claims/params.yaml, with the trial settings of params.yaml as plain values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from claims.paths import CLAIMS_FILE
from pipeline.common.errors import PipelineError
from pipeline.common.parameters import PARAMETERS_FILE, Sections, StrictModel, read_sections
from pipeline.trials.studies import Level, Name, Seed, Study

Grid = dict[str, Annotated[list[Any], Field(min_length=1)]]


class StudyChanges(StrictModel):
    """What a study has instead in the extended set."""

    arms: list[Name] | None = None
    grid: Grid | None = None
    seeds: list[Seed] | None = None


class DeclaredStudy(StrictModel):
    """A study as it is declared: arms × every combination of the grid's values × seeds."""

    arms: list[Name] = Field(min_length=1)
    grid: Grid
    seeds: list[Seed] = Field(min_length=1)
    extended: StudyChanges = StudyChanges()


class StudySections(Sections):
    """The sections of claims/params.yaml that say what is trained."""

    set: Literal["default", "extended"]
    arms: dict[Name, dict[str, Any]]
    declared: dict[Name, DeclaredStudy] = Field(alias="studies")


class CommonSections(Sections):
    """The sections of params.yaml that the claims' trials start from, not checked here."""

    trial: dict[str, Any]
    arms: dict[Name, dict[str, Any]]


@dataclass(frozen=True)
class Studies:
    """The studies of the chosen set by name, and the settings of their arms as plain values."""

    set: str
    declared: dict[str, Study]
    trial: dict[str, Any]
    arms: dict[str, dict[str, Any]]

    def settings(self, arm: str, level: Level | None = None) -> dict[str, Any]:
        """Return the settings of a trial: the common ones, then the arm's, then the level's."""
        return {**self.trial, **self.arms[arm], **(level or {})}

    def epochs(self, arm: str, level: Level | None = None) -> int:
        """Return how many epochs a trial is to have, those at earlier batch sizes included."""
        settings = self.settings(arm, level)
        return int(settings["epochs"]) * (len(settings["earlier_batch_sizes"]) + 1)


def read_studies(path: Path = CLAIMS_FILE) -> Studies:
    """Read the studies of claims/params.yaml, and what their arms start from in params.yaml beside it.

    Raises:
        PipelineError: A file is missing, is not YAML, repeats a key or holds a wrong value, or arms and studies do not fit.
    """
    own, common = read_sections(StudySections, path), read_sections(CommonSections, path.parent.parent / PARAMETERS_FILE)
    if twice := sorted(own.arms.keys() & common.arms.keys()):
        raise PipelineError(f"{path}: arms.{twice[0]}: is declared in params.yaml already; give this one another name")
    arms = {**common.arms, **own.arms}
    studies = {}
    for name, study in own.declared.items():
        changes = study.extended.model_dump(exclude_none=True) if own.set == "extended" else {}
        studies[name] = Study.model_validate({**study.model_dump(exclude={"extended"}), **changes, "log_models": False})
        if unknown := [arm for arm in studies[name].arms if arm not in arms]:
            raise PipelineError(f"{path}: studies.{name}.arms: '{unknown[0]}' is not declared under arms ({', '.join(arms)})")
    return Studies(own.set, studies, common.trial, arms)


def check_declared(studies: Studies, study: str) -> None:
    """Raise a PipelineError if a study is not declared."""
    if study not in studies.declared:
        raise PipelineError(f"{CLAIMS_FILE}: studies.{study}: not declared; choose from {', '.join(studies.declared)}")
