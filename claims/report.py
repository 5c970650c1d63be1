"""DVC stage `report`: the verdict on each of the notebook's claims, and what lies behind it, under claims/report."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.reporting.theory import count_parameters, list_layers

from claims.judging.contrasts import effect_with
from claims.measure import label_columns, whole_histories
from claims.reporting import phrases, wording
from claims.reporting.chapters import CHAPTERS, Chapter, summary
from claims.reporting.evidence import evidence, levels
from claims.reporting.figures import forest
from claims.reporting.figures_claims import claim_figure, compared_arms, shows_arms, varied_parameter
from claims.reporting.findings import Findings, Verdict, read_findings
from claims.studies.parameters import load_claims
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.pages.generated import FIGURES, check_files, write_files
from pipeline.pages.html import make_page
from pipeline.pages.plotting import draw
from pipeline.pages.rendering import make_environment
from pipeline.pages.wording import Figures
from pipeline.training.result import DIVERGED_LOSS
from pipeline.trials.notebook import BASELINE

REPORT = Path("reports/claims")
TEMPLATES = Path(__file__).parent / "templates"
FILTERS = (
    phrases.amount,
    phrases.arm_name,
    phrases.bare_cell,
    phrases.cited,
    phrases.compared,
    phrases.effect,
    phrases.effect_cell,
    phrases.join_words,
    phrases.measured,
    phrases.ranges,
    phrases.share,
    phrases.threshold,
    wording.excluded,
    wording.finding,
    wording.meaning,
    wording.premise,
    wording.sentence,
    wording.tests,
)


def main() -> None:
    """Read what was measured and judged, and write claims/report, or with --check only compare."""
    parser = argparse.ArgumentParser(prog="python -m claims.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if claims/report is not what reports/claims gives")
    check = parser.parse_args().check
    files = make_report(read_findings(load_claims()))
    if not check:
        write_files(files, REPORT)
    elif (REPORT / FIGURES).is_dir():
        check_files(files, REPORT, "run `dvc repro --force claims/dvc.yaml:report`")
    else:
        raise PipelineError(f"{REPORT / FIGURES}: not found; run `dvc repro claims/dvc.yaml:report` to make it")


def make_report(findings: Findings) -> dict[str, str]:
    """Make every file of the report: its path below claims/report, and its text."""
    chapters = {name: tell(findings) for name, tell in CHAPTERS.items()}
    behind = {name: evidence(findings, name, claim) for name, claim in findings.parameters.claims.items() if claim.kind != "explored"}
    svgs = {"ledger": draw(forest, plotted(findings.ledger)), **_draw_claims(findings)}
    for chapter in (*chapters.values(), *behind.values()):
        svgs |= chapter.figures if chapter else {}
    context = {
        **describe_ledger(findings),
        **_describe_claims(findings, behind),
        **_describe_scope(findings),
        **{name: chapter.facts if chapter else None for name, chapter in chapters.items()},
        "drawn": set(svgs),
    }
    markdown = render_claims("claims.md", **context)
    figures = {f"{FIGURES}/{name}.svg": svg for name, svg in svgs.items() if f"]({FIGURES}/{name}.svg)" in markdown}
    return {**figures, "report.md": markdown, "report.html": make_page(markdown, figures)}


def render_claims(template: str, **context: object) -> str:
    """Fill a template of claims/templates; figures and tables in it count themselves."""
    captions = Captions()
    environment = make_environment(TEMPLATES, filters=FILTERS)
    text = environment.get_template(f"{template}.jinja").render({**context, "figure": captions.figure, "table": captions.table})
    return re.sub(r"\n{3,}", "\n\n", text)


class Captions:
    """Writes figures and captions, and counts both kinds."""

    def __init__(self) -> None:
        self._figures = self._tables = 0

    def figure(self, name: str, alt: str, caption: str) -> str:
        """An image with the text that stands for it, and its caption."""
        self._figures += 1
        return f"![{_on_one_line(alt)}]({FIGURES}/{name}.svg)\n\n**Figure {self._figures}.** {_on_one_line(caption)}"

    def table(self, caption: str) -> str:
        """A table's caption, to stand before it."""
        self._tables += 1
        return f"**Table {self._tables}.** {_on_one_line(caption)}"


def _on_one_line(text: str) -> str:
    return re.sub(r"[ \n]+", " ", text).strip()


def plotted(ledger: Mapping[str, Verdict]) -> list[Verdict]:
    """The claims that have an effect to compare with the smallest that matters."""
    return [verdict for verdict in ledger.values() if verdict.kind in ("tested", "timed") and verdict.smallest_effect is not None]


def describe_ledger(findings: Findings) -> dict[str, Any]:
    """Collect what the ledger's templates speak of."""
    parameters, ledger = findings.parameters, findings.ledger
    otherwise = {name: _with_other_statistics(findings, name) for name, claim in parameters.claims.items() if claim.kind == "tested"}
    judged = [verdict for verdict in ledger.values() if verdict.kind != "explored"]
    return {
        "parameters": parameters,
        "significance": parameters.significance,
        "answer": wording.answer(judged),
        "answer_by_averages": wording.answer_by_averages(judged, {name: effects["recalibrated"] for name, effects in otherwise.items()}),
        "otherwise": otherwise,
        "judged": judged,
        "plotted": plotted(ledger),
        "kinds": {verdict.kind for verdict in judged},
        "whatever": [verdict.id for verdict in plotted(ledger) if verdict.smallest_effect == verdict.null and not verdict.has_margin],
        "margins": [verdict.id for verdict in judged if verdict.has_margin],
        "anchor": anchor,
    }


def anchor(verdict: Verdict) -> str:
    """Where a claim's section is, as GitHub and the page name it."""
    return re.sub(r"[^\w\- ]", "", heading(verdict).lower()).replace(" ", "-")


def heading(verdict: Verdict) -> str:
    """Title of a claim's section."""
    return f"{verdict.id} BN {verdict.says}"


def _draw_claims(findings: Findings) -> dict[str, str]:
    """Draw the figure of each claim that is judged by its trials."""
    ledger, studies = findings.ledger, findings.parameters.studies
    return {
        f"claim_{name}": draw(
            claim_figure, claim, ledger[name], studies[claim.study], findings.histories[claim.study], findings.trials[claim.study]
        )
        for name, claim in findings.parameters.claims.items()
        if claim.kind == "tested"
    }


def _describe_claims(findings: Findings, behind: Mapping[str, Chapter | None]) -> dict[str, Any]:
    claims = findings.parameters.claims
    return {
        "heading": heading,
        "diverged_loss": DIVERGED_LOSS,
        "claims": claims,
        "explored": [verdict for verdict in findings.ledger.values() if verdict.kind == "explored"],
        "behind": {name: chapter.facts if chapter else None for name, chapter in behind.items()},
        "over_epochs": lambda claim: varied_parameter(claim, findings.parameters.studies[claim.study]) is None,
        "shows_arms": lambda claim: shows_arms(claim, findings.parameters.studies[claim.study]),
        "compared_arms": {name: compared_arms(claim) for name, claim in claims.items()},
        "diverged": {name: _count_diverged(findings, name) for name, claim in claims.items() if claim.effect},
        "levels": {name: levels(findings, name, claim) for name, claim in claims.items() if claim.kind == "tested"},
    }


def _count_diverged(findings: Findings, name: str) -> int:
    claim = findings.parameters.claims[name]
    trials = findings.trials[claim.study]
    return int(trials.loc[trials["arm"].isin(compared_arms(claim)), "diverged"].sum())


def _with_other_statistics(findings: Findings, name: str) -> dict[str, Figures]:
    claim = findings.parameters.claims[name]
    trials = whole_histories(findings.parameters, claim.study, findings.histories[claim.study])
    labels = label_columns(findings.parameters, claim.study)
    return {statistics: effect_with(statistics, claim, name, trials, labels) for statistics in ("recalibrated", "batch_statistics")}


def _describe_scope(findings: Findings) -> dict[str, Any]:
    parameters = findings.parameters
    config = parameters.trials.trial_config(BASELINE, {}, seed=0)
    return {
        "config": config,
        "parameters_count": count_parameters(list_layers(config)),
        "images": findings.training_images,
        "trials": sum(study.count_trials() for study in parameters.studies.values()),
        "published": findings.published.to_dict("records"),
        "reached": summary(findings.tested.loc[findings.tested["arm"] == BASELINE, "accuracy"]),
    }


if __name__ == "__main__":
    run(main)
