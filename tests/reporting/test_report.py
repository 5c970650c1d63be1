import hashlib
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from pipeline import report
from pipeline.common.errors import PipelineError
from pipeline.pages.wording import SPACE
from tests.synthetic_results import LEVELS, write_results


def make_report(folder, **results):
    """Write made-up results into `folder`, run the stage there, and give its Markdown with plain spaces."""
    write_results(folder, **results)
    return run_stage(folder)


def run_stage(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["report"])
        report.main()
    return (folder / "reports/notebook/report.md").read_text(encoding="utf-8").replace(SPACE, " ")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    make_report(folder)
    return folder


@pytest.fixture(scope="module")
def markdown(made):
    return (made / "reports/notebook/report.md").read_text(encoding="utf-8").replace(SPACE, " ")


@pytest.fixture(scope="module")
def metrics(made):
    return json.loads((made / "reports/notebook/metrics.json").read_text())


def last_epoch(folder, arm):
    history = pd.read_csv(folder / f"results/train/{arm}/history.csv")
    return history[history["epoch"] == 20].set_index("seed")


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_file_is_made_and_nothing_else(made):
    names = {str(path) for path in files_of(made / "reports/notebook") if path.parent == Path()}
    assessed = {"layers.csv", "test_trials.csv", "test_per_class.csv", "test_references.csv", "confusion_matrix.csv"}
    assert names == {"report.md", "report.html", "metrics.json", "history.csv", "weights.csv", "inputs.csv", "data_profile.json", *assessed}


def test_weights_are_told_by_their_hashes(made):
    weights = pd.read_csv(made / "reports/notebook/weights.csv").set_index(["study", "arm", "batch_size", "seed"])["sha256"]
    assert len(weights) == 25
    content = (made / "results/batch_size_grid/128/weights/seed-3.weights.h5").read_bytes()
    assert weights["batch_size_grid", "batch_norm", 128, 3] == hashlib.sha256(content).hexdigest()


def check(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["report", "--check"])
        report.main()


def test_the_report_can_be_made_again_from_its_own_tables_alone(made, tmp_path):
    shutil.copy(made / "params.yaml", tmp_path)
    shutil.copytree(made / "reports", tmp_path / "reports")
    before = files_of(tmp_path)
    check(tmp_path)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("spoil", ["metrics.json", "report.html", "figures/accuracy.svg", "figures/more.svg"])
def test_a_file_that_its_tables_do_not_give_is_named(made, tmp_path, spoil):
    shutil.copy(made / "params.yaml", tmp_path)
    shutil.copytree(made / "reports", tmp_path / "reports")
    with (tmp_path / "reports/notebook" / spoil).open("a") as file:
        file.write(" ")
    with pytest.raises(PipelineError, match=rf"^reports/notebook: {spoil}: not what the measurements beside them give"):
        check(tmp_path)


def test_figures_in_the_report_are_those_recomputed_from_the_histories(made, markdown, metrics):
    batch_norm, baseline = (last_epoch(made, arm)["val_accuracy"] for arm in ("batch_norm", "baseline"))
    interval = stats.ttest_rel(batch_norm, baseline).confidence_interval(0.95)
    difference = metrics["train_differences"]["batch_norm_minus_baseline"]["final"]["val_accuracy"]
    assert difference["mean"] == pytest.approx((batch_norm - baseline).mean(), rel=1e-5)
    assert (difference["low_95"], difference["high_95"]) == pytest.approx((interval.low, interval.high), rel=1e-5)
    cell = f"{100 * difference['mean']:+.2f} [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]".replace("-", "−")
    assert f"| {100 * baseline.mean():.1f} ± {100 * baseline.std():.1f} % |" in markdown
    assert f"| {cell} |" in markdown


def test_a_batch_size_is_compared_with_the_notebooks(made, metrics):
    finals = {}
    for size in (32, 64):
        history = pd.read_csv(made / f"results/batch_size_grid/{size}/history.csv")
        finals[size] = history[history["epoch"] == 20].set_index("seed")["val_accuracy"]
    measured = metrics["batch_size_grid_differences"]["32_minus_64"]["final"]["val_accuracy"]["mean"]
    assert measured == pytest.approx((finals[32] - finals[64]).mean(), rel=1e-5)


def test_every_trial_is_in_the_common_history(made):
    history = pd.read_csv(made / "reports/notebook/history.csv")
    assert list(history.columns[:5]) == ["study", "arm", "batch_size", "seed", "epoch"]
    assert len(history) == (2 + 3) * 5 * 20
    source = pd.read_csv(made / "results/train/batch_norm/history.csv")
    ours = history.query("study == 'train' and arm == 'batch_norm'")
    assert (ours["val_loss"].to_numpy() == source["val_loss"].to_numpy()).all()


def test_the_wording_follows_the_data(tmp_path, tmp_path_factory):
    helps = {"baseline": (0.60, 0.45, None), "batch_norm": (0.55, 0.50, 0.52)}
    hurts = {"baseline": (0.60, 0.50, None), "batch_norm": (0.70, 0.45, 0.47)}
    helped = make_report(tmp_path, levels=helps)
    hurt = make_report(tmp_path_factory.mktemp("hurts"), levels=hurts)
    assert "lowered training accuracy by" in helped
    assert "raised validation accuracy by" in helped
    assert "contradicts the training half" in helped
    assert "agrees with its validation half" in helped
    assert "raised training accuracy by" in hurt
    assert "lowered validation accuracy by" in hurt
    assert "contradicts its validation half" in hurt


def test_equal_arms_are_not_told_apart(tmp_path):
    equal = (0.60, 0.48)
    markdown = make_report(tmp_path, levels={"baseline": (*equal, None), "batch_norm": (*equal, 0.48)}, seeds=(0, 1))
    assert "did not measurably change validation accuracy" in markdown
    assert "not distinguishable (interval includes 0)" in markdown


def test_the_same_results_give_the_same_bytes(made, tmp_path):
    make_report(tmp_path)
    assert files_of(tmp_path / "reports") == files_of(made / "reports")
    run_stage(tmp_path)
    assert files_of(tmp_path / "reports") == files_of(made / "reports")


def test_one_seed_has_no_interval_and_no_verdict(tmp_path):
    markdown = make_report(tmp_path, seeds=(0,), epochs=1)
    metrics = json.loads((tmp_path / "reports/notebook/metrics.json").read_text())
    assert "(n = 1, no interval)" in markdown
    assert "not testable with n = 1" in markdown
    assert "95 % interval +" not in markdown
    assert "nan" not in markdown.lower()
    assert metrics["train"]["baseline"]["final"]["val_accuracy"].keys() == {"mean", "n"}


def test_a_diverged_trial_is_counted_and_left_out_of_means(tmp_path, metrics):
    markdown = make_report(tmp_path, diverged=[("train", "batch_norm", 2), ("batch_size_grid", 128, 1)])
    diverged = json.loads((tmp_path / "reports/notebook/metrics.json").read_text())
    batch_norm = diverged["train"]["batch_norm"]
    finite = last_epoch(tmp_path, "batch_norm")["val_accuracy"]
    assert batch_norm["diverged"] == {"count": 1, "n": 5}
    assert batch_norm["final"]["val_accuracy"]["n"] == 4
    assert batch_norm["final"]["val_accuracy"]["mean"] == pytest.approx(finite.mean(), rel=1e-5)
    assert diverged["train_differences"]["batch_norm_minus_baseline"]["final"]["val_accuracy"]["n"] == 4
    assert diverged["train"]["baseline"]["final"] == metrics["train"]["baseline"]["final"]
    assert "2 of 25 trials diverged" in markdown
    assert "BN at batch size 64, seed 2" in markdown


def test_metrics_are_numbers_for_dvc_to_compare(metrics):
    def leaves(value):
        return [leaf for item in value.values() for leaf in leaves(item)] if isinstance(value, dict) else [value]

    assert all(isinstance(leaf, int | float) for leaf in leaves(metrics))
    assert metrics["references"]["softmax_regression"]["accuracy"] == 0.39


class Assets(HTMLParser):
    """Collects what a browser would fetch, images without a text, and ids."""

    def __init__(self):
        super().__init__()
        self.fetched, self.silent_images, self.ids, self.anchors, self.tags = [], 0, [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self.fetched += [values[name] for name in ("src", "srcset", "data", "poster") if name in values]
        self.fetched += [values["href"]] if tag == "link" else []
        self.silent_images += tag == "img" and not values.get("alt")
        self.ids += [values["id"]] if "id" in values else []
        self.anchors += [values["href"][1:]] if tag == "a" and values["href"].startswith("#") else []


@pytest.fixture(scope="module")
def page(made):
    assets = Assets()
    assets.feed((made / "reports/notebook/report.html").read_text(encoding="utf-8"))
    return assets


def test_the_page_needs_nothing_from_elsewhere(made, page):
    assert len(page.fetched) == 7
    assert all(target.startswith("data:image/svg+xml;base64,") for target in page.fetched)
    html = (made / "reports/notebook/report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|<script", html)


def test_the_page_can_be_navigated_and_read_aloud(page):
    assert ("html", {"lang": "en"}) in page.tags
    assert page.silent_images == 0
    assert len(page.ids) == len(set(page.ids))
    assert set(page.anchors) <= set(page.ids)
    assert [tag for tag, _ in page.tags].count("caption") == [tag for tag, _ in page.tags].count("table")
    assert all("scope" in values for tag, values in page.tags if tag == "th")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_formulas_become_mathml(made):
    html = (made / "reports/notebook/report.html").read_text(encoding="utf-8")
    assert html.count("<math") > 20
    assert "\\frac" not in html


@pytest.mark.parametrize(
    "name",
    [
        "results/train/baseline/history.csv",
        "results/batch_size_grid/32/history.csv",
        "results/train/batch_norm/weights/seed-0.weights.h5",
        "results/evaluate/trials.csv",
        "results/evaluate/references.csv",
        "results/layers.csv",
        "data/processed/profile.json",
    ],
)
def test_a_missing_input_is_named_with_its_remedy(tmp_path, name):
    write_results(tmp_path, seeds=(0,), epochs=1)
    (tmp_path / name).unlink()
    with pytest.raises(PipelineError, match=rf"^{re.escape(name)}: not found; run `dvc repro "):
        run_stage(tmp_path)
    assert not (tmp_path / "reports").exists()


def test_a_history_of_other_settings_is_refused(tmp_path):
    write_results(tmp_path, seeds=(0, 1), epochs=2)
    path = tmp_path / "results/train/baseline/history.csv"
    history = pd.read_csv(path)
    history[history["seed"] == 0].to_csv(path, index=False)
    with pytest.raises(PipelineError, match=r"other trials than params\.yaml declares"):
        run_stage(tmp_path)
    history[(history["seed"] == 0) | (history["epoch"] == 1)].to_csv(path, index=False)
    with pytest.raises(PipelineError, match=r"seed 1, has 1 epochs where params\.yaml says 2"):
        run_stage(tmp_path)


def test_an_arm_of_which_nothing_finished_is_an_error(tmp_path):
    write_results(tmp_path, seeds=(0,), epochs=3, diverged=[("train", "batch_norm", 0)])
    with pytest.raises(PipelineError, match=r"every trial of batch_norm diverged; lower trial\.learning_rate"):
        run_stage(tmp_path)


def test_a_further_arm_is_reported_beside_the_two(tmp_path):
    parameters = tmp_path / "params.yaml"
    write_results(tmp_path, levels={**LEVELS, "layer_norm": (0.66, 0.51, None)}, seeds=(0, 1), epochs=2)
    text = parameters.read_text().replace("arms: [baseline, batch_norm]", "arms: [baseline, batch_norm, layer_norm]")
    parameters.write_text(text.replace("\narms:\n", "\narms:\n  layer_norm:\n    normalization: layer\n"))
    assert "Beside these, layer norm reached" in run_stage(tmp_path)
