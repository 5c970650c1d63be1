"""The report names what was measured rightly, whatever params.yaml and the profile say."""

import json

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.pages.rendering import render
from pipeline.pages.wording import SPACE
from pipeline.reporting.facts import METRICS, describe, summarize_results
from pipeline.reporting.page import TEMPLATES
from pipeline.reporting.tables import read_stage_outputs
from pipeline.trials.parameters import load_parameters
from tests.synthetic_results import write_results

ACCEPTED = [
    (("trial", "hidden_units"), []),
    (("trial", "optimizer"), "sgd"),
    (("trial", "precision"), "bfloat16"),
    (("trial", "batch_size"), 1_000_000),
    (("trial", "batch_norm_momentum"), 0.0),
    (("trial", "normalization"), "layer"),
    (("trial", "normalization_position"), "before_activation"),
    (("studies", "train", "arms"), ["batch_norm", "baseline"]),
    (("studies", "batch_size_grid", "grid", "batch_size"), [32]),
    (("arms", "batch_norm", "dropout"), 0.5),
    (("arms", "layer_norm"), {"normalization": "layer", "epochs": 7}),
    (("studies", "learning_rates"), {"arms": ["baseline"], "grid": {"learning_rate": [0.1, 0.01]}, "seeds": [0], "log_models": False}),
]


@pytest.fixture
def results(tmp_path, monkeypatch):
    write_results(tmp_path, seeds=(0, 1), epochs=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change_parameters(root, path, value):
    yaml = YAML()
    content = yaml.load(root / "params.yaml")
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    yaml.dump(content, root / "params.yaml")


def change_profile(root, section, **values):
    path = root / "data/processed/profile.json"
    profile = json.loads(path.read_text())
    profile[section] |= values
    path.write_text(json.dumps(profile))


def write_markdown():
    parameters = load_parameters()
    tables = read_stage_outputs(parameters)
    facts = describe(parameters, tables, summarize_results(tables, parameters))
    return render("report.md", TEMPLATES, **facts).replace(SPACE, " ")


@pytest.mark.parametrize(("path", "value"), ACCEPTED, ids=[f"{'.'.join(path)}={value!s:.20}" for path, value in ACCEPTED])
def test_what_is_accepted_can_be_reported(results, path, value):
    change_parameters(results, path, value)
    for history in results.glob("results/train/*/history.csv"):
        pd.read_csv(history).assign(batch_size=load_parameters().trial.batch_size).to_csv(history, index=False)
    assert "# " in write_markdown()


def test_another_data_set_is_named_by_its_profile(results):
    change_profile(results, "dataset", title="CIFAR-100", home="https://example.org/100", citation="Somebody, 2020")
    markdown = write_markdown()
    assert "[CIFAR-100](https://example.org/100) (Somebody, 2020): images of 32 × 32 × 3 values" in markdown
    assert "CIFAR-10 " not in markdown
    assert "CIFAR-10]" not in markdown


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"method": "last"}, "the last 20 % of the official training set, cut from its end"),
        ({"method": "stratified", "seed": 3}, "a stratified random 20 % of the official training set (seed 3)"),
        ({"method": "grouped", "seed": 3}, "20 % of the official training set, chosen by `method: grouped` (seed 3)"),
    ],
)
def test_the_split_is_named_by_its_method(results, split, words):
    change_profile(results, "split", **split)
    assert f"Validation images are {words}" in write_markdown()


def test_what_the_template_does_not_know_is_named_by_its_value(results):
    parameters = load_parameters()
    tables = read_stage_outputs(parameters)
    facts = describe(parameters, tables, summarize_results(tables, parameters))
    unknown = {"network": "small_conv", "optimizer": "lion", "learning_rate_schedule": "steps"}
    facts["baseline"] = facts["baseline"].model_copy(update=unknown)
    facts["before_batch_norm"] = ["Conv2D"]
    markdown = render("report.md", TEMPLATES, **facts)
    assert "`small_conv` network" in markdown
    assert "trained by `lion` with initial learning rate 0.001 (`learning_rate_schedule: steps`)" in markdown
    for wrong in ("multilayer perceptron on", "Adam", "SGD", "no learning-rate schedule", "each ReLU", "In this network BN comes"):
        assert wrong not in markdown


def test_an_arm_that_differs_in_more_than_batch_norm_is_said_to(results):
    change_parameters(results, ("arms", "batch_norm", "learning_rate"), 0.01)
    markdown = write_markdown()
    assert "The arm also differs in `learning_rate: 0.01`." in markdown
    assert "one optimizer and learning rate" not in markdown


def test_training_on_fewer_images_is_told_with_its_updates(results):
    change_parameters(results, ("trial", "training_images"), 1280)
    markdown = write_markdown()
    assert "Training uses the first 1,280 of the remaining images." in markdown
    assert "An epoch here has 20 updates (1,280 images in batches of 64)" in markdown


def test_every_listed_metric_is_in_the_table_with_its_meaning_and_in_the_metrics(results):
    parameters = load_parameters()
    metrics = summarize_results(read_stage_outputs(parameters), parameters)
    markdown = write_markdown()
    for metric, meaning in METRICS.items():
        assert {"mean", "sd", "n"} <= metrics["train"]["batch_norm"]["final"][metric].keys()
        [row] = [line for line in markdown.splitlines() if line.startswith(f"| `{metric}` |")]
        assert row.endswith(f"| {meaning} |")


def test_a_metric_that_only_batch_norm_has_is_left_empty_for_the_other_arm(results, monkeypatch):
    path = results / "results/train/batch_norm/history.csv"
    pd.read_csv(path).assign(gradient_noise=0.25).to_csv(path, index=False)
    grid = results.glob("results/batch_size_grid/*/history.csv")
    for path in grid:
        pd.read_csv(path).assign(gradient_noise=0.25).to_csv(path, index=False)
    monkeypatch.setitem(METRICS, "gradient_noise", "noise of the gradient")
    assert "| `gradient_noise` | – | 0.250 ± 0.000 | noise of the gradient |" in write_markdown()


def test_leftovers_of_an_undone_experiment_change_nothing(results):
    before = read_stage_outputs(load_parameters()).as_files()
    for leftover in ("results/train/other/history.csv", "results/batch_size_grid/256/weights/seed-0.weights.h5"):
        (results / leftover).parent.mkdir(parents=True)
        (results / leftover).write_text("of another experiment")
    assert read_stage_outputs(load_parameters()).as_files() == before
