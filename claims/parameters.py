"""The check of the whole of claims/params.yaml. `checks.parameters` runs it before anything is trained."""

from pathlib import Path

from pydantic import ConfigDict

from claims.judging.parameters import EXACT, TIMED, ClaimSections, read_claims
from claims.paths import CLAIMS_FILE
from claims.probes.parameters import MechanismsSection, TimingSection
from claims.studies.parameters import StudySections, read_studies
from claims.studies.trials import read_trials
from pipeline.common.errors import PipelineError
from pipeline.common.parameters import read_sections


class _WholeFile(StudySections, TimingSection, MechanismsSection, ClaimSections):
    model_config = ConfigDict(extra="forbid")


def check_claims(path: Path = CLAIMS_FILE) -> None:
    """Check every section of claims/params.yaml, and that they fit each other and params.yaml.

    Raises:
        PipelineError: A file is missing, is not YAML, repeats a key, or holds a wrong key or value (all are named).
    """
    whole = read_sections(_WholeFile, path)
    if taken := sorted({EXACT, TIMED} & whole.declared.keys()):
        raise PipelineError(f"{path}: studies.{taken[0]}: is the name of a stage that measures by itself; give the study another name")
    read_trials(path)
    read_claims(read_studies(path), path)
