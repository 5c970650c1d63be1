"""What the report of the claims is made of: everything under reports/claims, read and checked."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ValidationError

from claims.judging.parameters import ClaimSections, read_claims
from claims.judging.verdicts import VERDICTS, JudgedClaim
from claims.paths import CLAIMS_FILE, STUDIES, remedy
from claims.probes.parameters import Mechanisms, MechanismsSection
from claims.probes.tables import MECHANISM_COLUMNS, read_mechanism, read_timing
from claims.studies.parameters import Studies, read_studies
from claims.studies.tables import label_columns, read_histories, read_study
from pipeline.common.errors import PipelineError
from pipeline.common.parameters import explain, read_sections
from pipeline.common.tables import read_json, read_table
from pipeline.pages.generated import REPORTS

PUBLISHED = Path("claims/published.csv")
PUBLISHED_COLUMNS = ["source", "url", "network", "epochs", "metric", "accuracy"]
PUBLISHED_DTYPES = defaultdict(lambda: "str", epochs="float64", accuracy="float64")


class _VerdictsFile(BaseModel):
    claims: list[JudgedClaim]


@dataclass(frozen=True)
class Results:
    """What was declared, measured and judged.

    `verdicts` holds a row for each claim; `histories` and `trials` the tables of each study, both with a column `diverged`;
    `mechanisms` the tables of the probes by name, made with the settings `probed`; `tested` the main pipeline's trials on the test
    set; `layers` the numbers of weights of the main pipeline's networks; `profile` that of the data.
    """

    studies: Studies
    sections: ClaimSections
    probed: Mechanisms
    verdicts: dict[str, JudgedClaim]
    histories: dict[str, pd.DataFrame]
    trials: dict[str, pd.DataFrame]
    timing: pd.DataFrame
    mechanisms: dict[str, pd.DataFrame]
    published: pd.DataFrame
    tested: pd.DataFrame
    layers: pd.DataFrame
    profile: dict[str, Any]

    @property
    def training_images(self) -> int:
        """How many there are, after the validation images are split off."""
        return int(sum(self.profile["classes"]["train"].values()))


def read_results() -> Results:
    """Read what the stages before the report wrote.

    Raises:
        PipelineError: A file is missing, not as its stage writes it, or of other claims or trials than are declared.
    """
    studies = read_studies()
    sections = read_claims(studies)
    histories, trials = {}, {}
    for name, study in studies.declared.items():
        labels = label_columns(study)
        history, trials[name] = read_histories(studies, name), read_study(name, "trials", [*labels, "epochs_trained", "diverged"])
        marked = history.merge(trials[name][[*labels, "diverged"]], on=labels, how="left")
        if marked["diverged"].isna().any():
            raise PipelineError(f"{STUDIES / name / 'trials.csv'}: lacks trials of the history beside it; {remedy(f'measure@{name}')}")
        histories[name] = marked.astype({"diverged": bool})
    return Results(
        studies=studies,
        sections=sections,
        probed=read_sections(MechanismsSection, CLAIMS_FILE).mechanisms,
        verdicts=_read_verdicts(sections),
        histories=histories,
        trials=trials,
        timing=read_timing(),
        mechanisms={name: read_mechanism(name) for name in MECHANISM_COLUMNS},
        published=read_table(PUBLISHED, PUBLISHED_COLUMNS, "take it back from git", PUBLISHED_DTYPES),
        tested=read_table(REPORTS / "test_trials.csv", ["arm", "accuracy"], "run `dvc repro report` to make it"),
        layers=read_table(REPORTS / "layers.csv", ["arm", "trained", "moving"], "run `dvc repro report` to make it"),
        profile=read_json(REPORTS / "data_profile.json", "report"),
    )


def _read_verdicts(sections: ClaimSections) -> dict[str, JudgedClaim]:
    try:
        rows = _VerdictsFile.model_validate(read_json(VERDICTS, "claims/dvc.yaml:verdicts")).claims
    except ValidationError as error:
        raise PipelineError(f"{explain(error, f'{VERDICTS}: ')}; {remedy('verdicts')}") from None
    declared = [(name, claim.says, claim.metric, claim.smallest_effect) for name, claim in sections.claims.items()]
    if declared != [(row.id, row.says, row.metric, row.smallest_effect) for row in rows]:
        raise PipelineError(f"{VERDICTS}: of other claims than claims/params.yaml declares; run `make verdicts`")
    return {row.id: row for row in rows}
