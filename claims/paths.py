"""Where the parameters and the results of the claims lie."""

from pathlib import Path

CLAIMS_FILE = Path("claims/params.yaml")
RESULTS = Path("reports/claims")
STUDIES = RESULTS / "studies"
ENVIRONMENTS = RESULTS / "environment"


def remedy(stage: str) -> str:
    """Return what to do about a file that is not as its stage writes it."""
    return f"run `dvc repro claims/dvc.yaml:{stage}` to make it"
