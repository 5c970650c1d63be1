import dataclasses
import itertools
import json
import re
import shutil
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from claims import report
from claims.judging.amounts import SPACE, threshold
from claims.judging.verdicts import JudgedClaim
from claims.reporting import contrasts, page, readme, topics, words
from claims.reporting.results import read_results
from pipeline.common.errors import PipelineError
from pipeline.pages.rendering import make_environment
from tests.synthetic_claims import write_claims

README = "# Title\n\n<!-- verdicts: made by python -m claims.reporting.readme -->\nold\n<!-- end of verdicts -->\n\nAfter.\n"


def results_in(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return read_results()


def run_stage(folder, *arguments, module=report):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [module.__name__, *arguments])
        module.main()


def write_markdown(folder):
    """The report's Markdown with plain spaces, its figures not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (page, topics):
            patch.setattr(module, "draw", lambda build, *arguments: "<svg/>")
        return page.make_report(results_in(folder))["report.md"].replace(SPACE, " ")


def say(macro, *arguments):
    """What a macro of verdict.md.jinja makes of a row, with plain spaces."""
    module = make_environment(page.TEMPLATES, filters=words.FILTERS).get_template("verdict.md.jinja").module
    return getattr(module, macro)(*arguments).strip().replace(SPACE, " ")


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims")
    write_claims(folder)
    run_stage(folder)
    return folder


@pytest.fixture(scope="module")
def results(made):
    return results_in(made)


@pytest.fixture(scope="module")
def markdown(made):
    return (made / "reports/claims/report.md").read_text(encoding="utf-8").replace(SPACE, " ")


@pytest.fixture
def copied(made, tmp_path):
    """The same results, to be spoilt."""
    return shutil.copytree(made, tmp_path / "copy")


MARGIN = {"null_effect": -0.01, "smallest_effect": -0.01}


def section(markdown, heading):
    after = markdown.partition(f"\n### {heading} ")[2]
    return re.split(r"\n##", after)[0]


def test_the_first_screen_answers_with_counts_and_the_verdicts(markdown, results):
    first = markdown.partition("\n## ")[0]
    verdicts = [verdict.verdict for verdict in results.verdicts.values() if verdict.kind != "explored"]
    assert f"Of {len(verdicts)} claims that BN …, {verdicts.count('supported')} are supported (accelerates convergence; " in first
    assert "](figures/verdicts.svg)" in first
    for verdict in results.verdicts.values():
        assert (f"| [{verdict.id}](#" in first) == (verdict.kind != "explored")


def test_every_claim_is_told_with_its_tests_and_limits(markdown, results):
    for verdict in results.verdicts.values():
        told = section(markdown, verdict.id)
        if verdict.kind == "explored":
            assert not told
            assert f"| {verdict.id} {verdict.says} |" in markdown
            continue
        for part in (f"**Verdict: {verdict.verdict}.**", verdict.metric, "**What it means:**", "**What it does not mean:**", "arxiv.org"):
            assert part in told, (verdict.id, part)
        if verdict.kind == "tested":
            assert f"corrected p {words.probability(verdict.p_above_holm)}".replace(SPACE, " ") in told
            assert f"](figures/claim_{verdict.id}.svg)" in told


def test_numbers_are_those_of_the_measures(made, markdown):
    trials = pd.read_csv(made / "reports/claims/studies/core/trials.csv").pivot_table(index="seed", columns="arm", values="I1b")
    effects = 100 * (trials["batch_norm"] - trials["baseline"])
    assert f"{effects.mean():+.2f} points".replace("-", "−") in section(markdown, "I1b")


def test_the_page_has_no_silent_image_no_twin_heading_and_no_dangling_link(made, markdown):
    images = re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", markdown)
    assert len(images) > 20
    assert all(re.search(r"\d", alt) for alt, _ in images)
    assert {path for _, path in images} == {f"figures/{path.name}" for path in (made / "reports/claims/figures").iterdir()}
    headings = re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)
    assert len(headings) == len(set(headings))
    html = (made / "reports/claims/report.html").read_text(encoding="utf-8")
    assert set(re.findall(r'href="#([^"]*)"', html)) <= set(re.findall(r'id="([^"]*)"', html))
    assert html.count("<figure>") == len(images)
    assert html.count("<caption") == html.count("<table")
    assert not re.search(r"@import|url\(|<script|src=\"(?!data:)", html)
    counts = [int(number) for number in re.findall(r"^\*\*Figure (\d+)\.", markdown, re.MULTILINE)]
    assert counts == list(range(1, len(images) + 1))


def test_tables_are_whole(markdown):
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    for first, second in itertools.pairwise(markdown.splitlines()):
        if first.startswith("|") and second.startswith("|"):
            assert first.count("|") == second.count("|"), first
    assert len(rows) > 50


def test_the_same_results_give_the_same_bytes(made):
    before = files_of(made)
    run_stage(made, "--check")
    assert files_of(made) == before


def test_a_changed_byte_is_named(copied, monkeypatch):
    folder = copied / "reports/claims"
    committed = {path: text.decode() for path, text in files_of(folder).items() if path.parts[0] in ("figures", "report.md", "report.html")}
    monkeypatch.setattr(report, "make_report", lambda results: {str(path): text for path, text in committed.items()})
    run_stage(copied, "--check")
    (copied / "reports/claims/figures/speed.svg").write_text("other")
    with pytest.raises(PipelineError, match=r"^reports/claims: figures/speed\.svg: not what .*claims/dvc\.yaml:report`$"):
        run_stage(copied, "--check")


def test_parts_of_early_validation_add_up(results):
    parts = contrasts.split_early_validation(results.histories["core"])
    assert len(parts) == 5 * 20
    np.testing.assert_allclose(parts[contrasts.EARLY_PARTS].sum(axis="columns"), parts[contrasts.WHOLE], atol=1e-12)
    core = results.histories["core"].set_index(["arm", "epoch", "seed"])["val_accuracy"]
    np.testing.assert_allclose(parts[contrasts.WHOLE], (core["batch_norm"] - core["baseline"]).reindex(parts.index))


def test_parts_of_the_loss_at_tiny_batches_add_up_to_the_claims_effect(results):
    accuracies = contrasts.accuracies_by_batch_size(results.histories["tiny_batches"])
    parts = contrasts.split_tiny_batches(accuracies, large=32, tiny=2)
    np.testing.assert_allclose(parts[contrasts.TINY_PARTS].sum(axis="columns"), parts[contrasts.WHOLE], atol=1e-12)
    effects = {int(seed): effect for seed, effect in results.verdicts["L3"].differences.items()}
    assert parts[contrasts.WHOLE].to_dict() == pytest.approx(effects, rel=1e-5)


def test_each_part_of_the_loss_at_tiny_batches_is_what_its_statistics_give_back():
    sizes = pd.MultiIndex.from_product([[2, 32], [0]], names=["batch_size", "seed"])
    accuracies = pd.DataFrame({"no BN": [0.4, 0.5], "stored": [0.1, 0.5], "unbiased": [0.12, 0.5], "recalibrated": [0.3, 0.5]}, index=sizes)
    parts = contrasts.split_tiny_batches(accuracies, large=32, tiny=2).iloc[0]
    assert parts.to_dict() == pytest.approx({"whole": 0.3, "estimator bias": 0.02, "moving-average residual": 0.18, "training damage": 0.1})


def test_each_part_of_early_validation_is_what_its_name_says():
    rows = [
        {"arm": "baseline", "val_accuracy": 0.40, "train_eval_accuracy": 0.42},
        {"arm": "batch_norm", "val_accuracy": 0.35, "val_accuracy_recalibrated": 0.45, "train_eval_accuracy_recalibrated": 0.50},
    ]
    core = pd.DataFrame(rows).assign(epoch=1, seed=0, diverged=False)
    core.loc[0, ["val_accuracy_recalibrated", "train_eval_accuracy_recalibrated"]] = [0.40, 0.42]
    core.loc[1, "train_eval_accuracy"] = 0.44
    parts = contrasts.split_early_validation(core).iloc[0]
    assert parts.to_dict() == pytest.approx(
        {"whole": -0.05, "moving-average lag": -0.10, "generalization gap": -0.05 + 0.02, "training fit": 0.08}
    )


def test_the_fake_effect_is_that_of_the_histories(results):
    told = topics.own_error(results).facts["metrics"]["val_accuracy"]
    history = results.histories["continued_training"]
    on = history[(history["arm"] == "batch_norm_continued") & history["epoch"].isin([58, 59, 60])].groupby("seed")["val_accuracy"].mean()
    fresh = history[(history["arm"] == "batch_norm_128") & (history["epoch"] > 17)].groupby("seed")["val_accuracy"].mean()
    assert told["difference"][128]["mean"] == pytest.approx((on - fresh).mean())
    assert told["fake"]["mean"] == pytest.approx(told["apparent"]["mean"] - told["real"]["mean"])


@pytest.mark.parametrize(
    ("epochs", "step", "expected"),
    [
        ((1.9, 1.8, 2.0), (1.1, 1.0, 1.2), "in seconds BN reaches this target sooner"),
        ((1.1, 1.0, 1.2), (1.9, 1.8, 2.0), "in seconds BN reaches this target later"),
        ((1.5, 1.0, 2.0), (1.4, 1.1, 1.6), "in seconds it is undecided"),
    ],
)
def test_the_break_even_follows_the_intervals(results, monkeypatch, epochs, step, expected):
    verdicts = dict(results.verdicts)
    for name, values in (("B2a", epochs), ("L1", step)):
        bounds = dict(zip(("mean", "low_95", "high_95"), np.log(values).tolist(), strict=True))
        verdicts[name] = verdicts[name].model_copy(update=bounds)
    monkeypatch.setattr(topics, "draw", lambda build, *arguments: "<svg/>")
    facts = topics.speed(dataclasses.replace(results, verdicts=verdicts)).facts
    assert expected in page.render_claims("speed.md", speed=facts)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"verdict": "supported"}, "statistically significant and above the threshold of 1.00 points"),
        ({"verdict": "true but negligible"}, "statistically significant, but below the threshold of 1.00 points"),
        ({"verdict": "refuted"}, "below the threshold of 1.00 points, and not statistically significant"),
        ({"verdict": "reversed", "mean": -0.02}, "lower with BN: the whole 95 % interval contradicts the claim"),
        (
            {"verdict": "inconclusive", "p_above_holm": 0.3},
            "significant by itself, but not after correction for the number of claims",
        ),
        (
            {"verdict": "inconclusive", "p_above_holm": 0.3, "low_95": -0.1},
            "not statistically significant, and it may or may not reach",
        ),
        ({"verdict": "inconclusive", "p_above_holm": 0.01}, ": statistically significant, but it may or may not reach"),
        ({"verdict": "inconclusive", "sd": 0.0, "p_above": None}, "the seeds do not differ, so there is nothing to test it with"),
        (
            {"verdict": "inconclusive", "kind": "timed", "p_above": None},
            ": different from no effect by its 95 % interval, but",
        ),
        (
            {"verdict": "inconclusive", "kind": "timed", "p_above": None, "low_95": -0.01},
            "not different from no effect by its 95 % interval, and",
        ),
        ({"verdict": "inconclusive", "low_95": None, "n": 1}, "In the only seed, validation accuracy was higher with BN: one value cannot"),
        (
            {"mean": None, "n": 0, "excluded": [0, 1, 2, 4]},
            "Nothing could be measured: seeds 0–2, 4 are left out because they have no measure.",
        ),
        ({"direction": "there was no difference", "verdict": "refuted"}, "there was no difference: below the threshold"),
        ({"direction": "the effect was on the claim's side", "verdict": "supported"}, "the effect was on the claim's side"),
        ({"null_effect": -0.01, "verdict": "supported"}, "statistically significant against an effect of −1.00 points and above"),
        ({"smallest_effect": 0.0, "verdict": "supported"}, "statistically significant and above the threshold of 0.00 points"),
        ({"null_effect": -0.01, "smallest_effect": -0.01, "verdict": "supported"}, "it stays within the margin of −1.00 points"),
    ],
)
def test_sentences_follow_from_the_row(results, changes, expected):
    direction = f"validation accuracy was {'lower' if (changes.get('mean') or 0) < 0 else 'higher'} with BN"
    measured = {"mean": 0.02, "low_95": 0.01, "high_95": 0.03, "direction": direction}
    row = {**results.verdicts["I1b"].model_dump(), **measured, **changes}
    assert expected in say("sentence", JudgedClaim.model_validate(row), 0.05)


@pytest.mark.parametrize(
    ("changes", "meaning", "test_b"),
    [
        ({"verdict": "refuted"}, "as large as the threshold can be ruled out", "Test B, against an effect of 1.00 points or more"),
        (
            {"verdict": "refuted", **MARGIN},
            "the loss is larger than the margin of −1.00 points",
            "Test B, against an effect of −1.00 points",
        ),
        (
            {"verdict": "supported", **MARGIN},
            "smaller than the margin of −1.00 points",
            "Test B, against an effect of −1.00 points or more",
        ),
        ({"verdict": "reversed"}, "the opposite of the sentence", "Reverse of test A: corrected p "),
    ],
)
def test_what_a_verdict_means_follows_from_the_kind_of_claim(results, changes, meaning, test_b):
    verdict = JudgedClaim.model_validate({**results.verdicts["I1b"].model_dump(), **changes})
    assert meaning in say("meaning", verdict)
    assert test_b in say("tests", verdict)


@pytest.mark.parametrize(
    ("premise", "told", "in_table"),
    [
        ({"mean": -0.1, "low_95": -0.11, "high_95": -0.09, "n": 5}, "But its premise fails, −10.00 points", True),
        ({"mean": 0.1, "low_95": 0.09, "high_95": 0.11, "n": 5}, "That holds: +10.00 points", False),
        ({"mean": 0.0, "low_95": -0.01, "high_95": 0.01, "n": 5}, "it is open whether its premise holds", True),
        ({"mean": 0.1, "n": 1}, "it is open whether its premise holds", True),
    ],
)
def test_whether_a_premise_holds_is_told_and_a_doubt_stands_in_the_table(results, premise, told, in_table):
    verdict = results.verdicts["B3b"].model_copy(update={"premise": premise})
    assert told in say("premise", verdict)
    assert (say("premise", verdict) in say("finding", verdict, 0.05)) == in_table


def test_the_premise_of_a_claim_is_weighed_as_its_effect_is(results):
    trials = results.trials["dropout"].query("arm == 'baseline'").pivot_table(index="seed", columns="dropout", values="B3b")
    assert results.verdicts["B3b"].premise["mean"] == pytest.approx((trials[0.3] - trials[0.0]).mean(), rel=1e-5)


@pytest.mark.parametrize(("verdict", "low_95", "named"), [("refuted", 0.009, False), ("refuted", 0.02, True), ("supported", 0.02, False)])
def test_what_only_the_moving_averages_spoil_is_named(results, monkeypatch, verdict, low_95, named):
    verdicts = {"I1b": results.verdicts["I1b"].model_copy(update={"verdict": verdict})}
    monkeypatch.setattr(page, "effect_with", lambda *_: {"mean": 0.03, "low_95": low_95})
    said = page.render_claims("answer.md", **page.describe_verdicts(dataclasses.replace(results, verdicts=verdicts)))
    assert ("for 1 more (gives higher validation accuracy). This is explored, not tested." in said) == named


def test_ratios_and_decades_are_shown_as_such():
    found = {"mean": np.log(1.5), "low_95": np.log(1.2), "high_95": np.log(1.875), "n": 5}
    assert words.effect_cell(found, "log_ratio") == "×1.50 [×1.20, ×1.88]"
    assert words.effect({"mean": -0.5, "n": 1}, "decades").replace(SPACE, " ") == "−0.50 decades (n = 1, no interval)"
    assert threshold(0.02, "nats").replace(SPACE, " ") == "0.020 nats"
    assert words.ranges([1, 2, 3, 5, 7, 8]) == "1–3, 5, 7, 8"


def test_one_seed_of_the_extended_set_can_be_told_and_drawn(tmp_path):
    write_claims(tmp_path, seeds=(3,), epochs=2, extended=True)
    run_stage(tmp_path)
    markdown = (tmp_path / "reports/claims/report.md").read_text(encoding="utf-8").replace(SPACE, " ")
    assert "(n = 1, no interval)" in markdown
    assert not re.search(r"\b(nan|None|inf)\b", markdown)
    for svg in (tmp_path / "reports/claims/figures").iterdir():
        assert ElementTree.fromstring(svg.read_text(encoding="utf-8")).tag.endswith("svg")
    for arm in ("BN before activation", "layer norm", "no BN sgd", "BN sgd"):
        assert f"\n| {arm} | " in markdown
    arms = (tmp_path / "reports/claims/figures/all_arms.svg").read_text(encoding="utf-8")
    assert "layer norm" in arms


def test_what_diverged_is_counted_and_left_out_of_means(tmp_path):
    studies = ("core", "learning_rate", "initialization", "dropout", "tiny_batches")
    write_claims(tmp_path, diverged=[(study, "batch_norm", 1) for study in studies], seeds=(0, 1, 2))
    markdown = write_markdown(tmp_path)
    assert "seed 1 is left out because it has no measure" in section(markdown, "B1")
    assert "1 of the trials of these arms diverged" in section(markdown, "I1b")
    core = results_in(tmp_path).trials["core"].set_index(["arm", "seed"])
    assert core.loc[("batch_norm", 1), "epochs_trained"] == 3
    assert np.exp(core.loc[("batch_norm", 1), "B2a"]) == pytest.approx(21)  # an epoch more than the 20 that it was to have
    assert "| 0.001 | " in section(markdown, "B2b")
    assert " 1/3 |" in section(markdown, "B2b")
    assert "n = 2" not in section(markdown, "B4")
    parts = contrasts.split_early_validation(results_in(tmp_path).histories["core"])
    assert set(parts.index.get_level_values("seed")) == {0, 2}
    assert not re.search(r"\b(nan|None|inf)\b", markdown)


def test_an_arm_of_which_nothing_finished_leaves_a_report(tmp_path):
    diverged = [(study, "batch_norm", seed) for study in ("core", "tiny_batches", "continued_training") for seed in (0, 1)]
    write_claims(tmp_path, seeds=(0, 1), epochs=4, diverged=diverged)
    markdown = write_markdown(tmp_path)
    assert "6 of the trials of these arms diverged" in section(markdown, "L3")
    assert "## The early-validation puzzle" not in markdown


@pytest.mark.parametrize(
    "name", ["verdicts.json", "timing.csv", "mechanisms/units.csv", "studies/core/history.csv", "studies/dropout/trials.csv"]
)
def test_a_missing_file_is_named_with_its_remedy(copied, name):
    (copied / "reports/claims" / name).unlink()
    with pytest.raises(PipelineError, match=rf"^reports/claims/{re.escape(name)}: not found; run `dvc repro claims/dvc\.yaml:\w+(@\w+)?`"):
        results_in(copied)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("timing.csv", "milliseconds"),
        ("mechanisms/drift.csv", "layer"),
        ("studies/core/history.csv", "epoch"),
        ("studies/dropout/trials.csv", "dropout"),
    ],
)
def test_a_missing_column_is_named(copied, name, column):
    path = copied / "reports/claims" / name
    pd.read_csv(path).drop(columns=column).to_csv(path, index=False)
    with pytest.raises(PipelineError, match=rf"^reports/claims/{re.escape(name)}: has no column {column}; run "):
        results_in(copied)


def change_verdicts(folder, change):
    path = folder / "reports/claims/verdicts.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_verdicts_of_other_claims_are_refused(copied):
    change_verdicts(copied, lambda content: content["claims"].pop())
    with pytest.raises(PipelineError, match=r"of other claims than claims/params\.yaml declares; run `make verdicts`"):
        results_in(copied)
    change_verdicts(copied, lambda content: content["claims"][1].update(mean="much"))
    with pytest.raises(PipelineError, match=r"^reports/claims/verdicts\.json: claims\.1\.mean: .*; run "):
        results_in(copied)
    (copied / "reports/claims/verdicts.json").write_text("{")
    with pytest.raises(PipelineError, match="not valid JSON"):
        results_in(copied)


def test_another_smallest_effect_asks_for_new_verdicts(copied):
    yaml = YAML()
    content = yaml.load(copied / "claims/params.yaml")
    content["claims"]["I1b"]["smallest_effect"] = 0.02
    yaml.dump(content, copied / "claims/params.yaml")
    with pytest.raises(PipelineError, match="run `make verdicts`"):
        results_in(copied)


def test_the_readme_keeps_the_verdicts(copied):
    (copied / "README.md").write_text(README)
    with pytest.raises(PipelineError, match=r"run `python -m claims\.reporting\.readme`$"):
        run_stage(copied, "--check", module=readme)
    assert (copied / "README.md").read_text() == README
    run_stage(copied, module=readme)
    text = (copied / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# Title\n\n")
    assert text.endswith("\n\nAfter.\n")
    assert "](reports/claims/figures/verdicts.svg)" in text
    assert "Of 12 claims that BN …, " in text
    assert "[B1](reports/claims/report.md#b1-bn-stabilizes-training) stabilizes training" in text
    run_stage(copied, "--check", module=readme)
