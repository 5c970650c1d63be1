"""The report of the claims as files: Markdown from templates, figures as SVG, and one self-contained page."""

import math
import re
from pathlib import Path
from typing import Any

from claims.judging.verdicts import JudgedClaim
from claims.reporting.contrasts import effect_with
from claims.reporting.figures import claim_figure, forest, shows_arms, varied_parameter
from claims.reporting.results import Results
from claims.reporting.topics import DETAILS, TOPICS, levels, summary
from claims.reporting.words import FILTERS
from claims.studies.tables import label_columns, whole_histories
from pipeline.pages.generated import FIGURES
from pipeline.pages.html import make_page
from pipeline.pages.plotting import draw
from pipeline.pages.rendering import make_environment
from pipeline.training.result import DIVERGED_LOSS
from pipeline.trials.notebook import BASELINE

TEMPLATES = Path(__file__).parent / "templates"
VERDICTS = ("supported", "true but negligible", "inconclusive", "refuted", "reversed")


def make_report(results: Results) -> dict[str, str]:
    """Return every file of the report: its path below reports/claims, and its text."""
    claims, studies = results.sections.claims, results.studies.declared
    topics = {make.__name__: make(results) for make in TOPICS}
    details = {name: make(results, claims[name]) for name, make in DETAILS.items() if name in claims and claims[name].kind != "explored"}
    on_studies = {name: claim for name, claim in claims.items() if claim.effect}
    tested = {name: claim for name, claim in claims.items() if claim.kind == "tested"}
    trials = {name: results.trials[claim.study] for name, claim in on_studies.items()}
    context = describe_verdicts(results)
    svgs = {"verdicts": draw(forest, context["plotted"])}
    for name, claim in tested.items():
        svgs[f"claim_{name}"] = draw(
            claim_figure, claim, results.verdicts[name], studies[claim.study], results.histories[claim.study], trials[name]
        )
    for topic in (*topics.values(), *details.values()):
        svgs |= topic.figures if topic else {}
    context |= {name: topic.facts if topic else None for name, topic in topics.items()}
    context |= {
        "claims": claims,
        "diverged_loss": DIVERGED_LOSS,
        "explored": [row for row in results.verdicts.values() if row.kind == "explored"],
        "details": {name: topic.facts for name, topic in details.items() if topic},
        "over_epochs": lambda claim: varied_parameter(claim, studies[claim.study]) is None,
        "shows_arms": lambda claim: shows_arms(claim, studies[claim.study]),
        "diverged": {name: int(trials[name].loc[trials[name]["arm"].isin(claims[name].arms), "diverged"].sum()) for name in on_studies},
        "levels": {name: levels(results, name, claim) for name, claim in tested.items()},
        "settings": results.studies.settings(BASELINE),
        "weights": int(results.layers.loc[results.layers["arm"] == BASELINE, ["trained", "moving"]].to_numpy().sum()),
        "dataset": results.profile["dataset"]["title"],
        "images": results.training_images,
        "trials": sum(study.count_trials() for study in studies.values()),
        "published": results.published.to_dict("records"),
        "reached": summary(results.tested.loc[results.tested["arm"] == BASELINE, "accuracy"]),
        "drawn": set(svgs),
    }
    markdown = render_claims("claims.md", **context)
    figures = {f"{FIGURES}/{name}.svg": svg for name, svg in svgs.items() if f"]({FIGURES}/{name}.svg)" in markdown}
    return {**figures, "report.md": markdown, "report.html": make_page(markdown, figures)}


def describe_verdicts(results: Results) -> dict[str, Any]:
    """Return what the templates about all verdicts use, in the report and in the README."""
    rows = list(results.verdicts.values())
    judged = [row for row in rows if row.kind != "explored"]
    plotted = [row for row in rows if row.kind in ("tested", "timed") and row.smallest_effect is not None]
    otherwise = {}
    for name, claim in results.sections.claims.items():
        if claim.kind == "tested":
            histories = whole_histories(results.studies, claim.study, results.histories[claim.study])
            labels = label_columns(results.studies.declared[claim.study])
            otherwise[name] = {which: effect_with(which, claim, name, histories, labels) for which in ("recalibrated", "batch_statistics")}
    short = [row for row in judged if row.kind == "tested" and row.verdict != "supported" and not row.has_margin]
    found = sorted({row.verdict for row in judged}, key=lambda verdict: VERDICTS.index(verdict) if verdict in VERDICTS else len(VERDICTS))
    return {
        "studies": results.studies,
        "significance": results.sections.significance,
        "judged": judged,
        "says_by_verdict": {verdict or "without a verdict": [row.says for row in judged if row.verdict == verdict] for verdict in found},
        "otherwise": otherwise,
        "only_recalibrated": [
            row.says for row in short if otherwise[row.id]["recalibrated"].get("low_95", -math.inf) > (row.smallest_effect or 0.0)
        ],
        "plotted": plotted,
        "kinds": {row.kind for row in judged},
        "whatever": [row.id for row in plotted if row.smallest_effect == row.null and not row.has_margin],
        "margins": [row.id for row in judged if row.has_margin],
        "anchor": anchor,
    }


def anchor(row: JudgedClaim) -> str:
    """Return where a claim's section is, as GitHub and the page name it."""
    return re.sub(r"[^\w\- ]", "", f"{row.id} BN {row.says}".lower()).replace(" ", "-")


def render_claims(template: str, **context: object) -> str:
    """Fill a template of claims/reporting/templates. Figures and tables are numbered."""
    numbers = {"Figure": 0, "Table": 0}

    def on_one_line(text: str) -> str:
        return re.sub("[ \n]+", " ", text).strip()

    def caption(kind: str, text: str) -> str:
        numbers[kind] += 1
        return f"**{kind} {numbers[kind]}.** {on_one_line(text)}"

    def figure(name: str, alt: str, text: str) -> str:
        return f"![{on_one_line(alt)}]({FIGURES}/{name}.svg)\n\n{caption('Figure', text)}"

    environment = make_environment(TEMPLATES, filters=FILTERS)
    text = environment.get_template(f"{template}.jinja").render(**context, figure=figure, table=lambda text: caption("Table", text))
    return re.sub(r"\n{3,}", "\n\n", text)
