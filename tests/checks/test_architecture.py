"""The picture of the architecture is that of the pipeline files."""

import re
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from checks import architecture
from checks.architecture import PAGE, Stage, draw, read_stages
from checks.lock import CLAIMS, MAIN, PIPELINES
from pipeline.common.errors import PipelineError
from tests.conftest import ROOT

NODE = re.compile(r'^ +(\w+)(?:\["|\("|\[/")')


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with both pipeline files and the page."""
    for name in (*PIPELINES, str(PAGE)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["architecture", *arguments])
    architecture.main()


def change(pipeline: str, stage: str, key: str, to: object) -> None:
    yaml, path = YAML(), Path(pipeline)
    content = yaml.load(path)
    declared = content["stages"].setdefault(stage, {"cmd": "true"})
    declared.get("do", declared)[key] = to
    yaml.dump(content, path)


def nodes_of(picture: str, pipeline: str) -> str:
    """The part of the picture that stands under a pipeline file's name."""
    return picture.partition(f'["{pipeline}"]\n')[2].partition("\n    end\n")[0]


def test_the_committed_picture_is_current(monkeypatch):
    monkeypatch.chdir(ROOT)
    run(monkeypatch, "--check")


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_stage_is_drawn_once_under_its_file(pipeline):
    declared = YAML(typ="safe").load(ROOT / pipeline)["stages"]
    drawn = re.findall(r'\["<b>(\w+)</b>', nodes_of(draw(read_stages(ROOT)), pipeline))
    assert drawn == list(declared)


def test_every_folder_and_file_that_a_stage_writes_is_drawn():
    picture = draw(read_stages(ROOT))
    for pipeline in PIPELINES:
        for stage in YAML(typ="safe").load(ROOT / pipeline)["stages"].values():
            outputs = [path if isinstance(path, str) else next(iter(path)) for path in stage.get("do", stage)["outs"]]
            assert all(path.split("/")[-1].replace("${item.", "{").replace("${", "{") in picture for path in outputs)


def test_arrows_join_only_what_is_drawn_and_no_two_nodes_share_a_name():
    lines = draw(read_stages(ROOT)).splitlines()
    nodes = [found[1] for found in map(NODE.match, lines) if found]
    arrows = [re.split(r" -\.?-> | & ", line.strip()) for line in lines if "->" in line]
    assert len(set(nodes)) == len(nodes)
    assert {node for arrow in arrows for node in arrow} == set(nodes)


def test_who_reads_what():
    stages = [
        Stage(MAIN, "split", "", ("params.yaml",), ("source",), ("data/train", "data/test", "data/notes.json")),
        Stage(MAIN, "train", "for each arm", ("params.yaml",), ("data/train",), ("results/{arm}",)),
        Stage(CLAIMS, "judge", "", (), ("data/train", "results"), ("verdicts.json", "verdicts.csv")),
    ]
    arrows = [line.strip() for line in draw(stages).splitlines() if "->" in line]
    assert arrows == [
        "params_yaml -.-> dvc_yaml_split & dvc_yaml_train",
        "source --> dvc_yaml_split",
        "dvc_yaml_split --> data_train & data_test",
        "data_train --> dvc_yaml_train & claims_dvc_yaml_judge",
        "dvc_yaml_train --> results_arm",
        "results_arm --> claims_dvc_yaml_judge",
        "claims_dvc_yaml_judge --> verdicts_json",
    ]


def test_code_and_templates_are_not_drawn():
    picture = draw(read_stages(ROOT))
    assert ".py" not in picture
    assert "templates" not in picture


@pytest.mark.parametrize(
    ("pipeline", "stage", "key", "to"),
    [
        (MAIN, "new_stage", "outs", ["results/new"]),
        (MAIN, "fetch", "outs", ["data/other"]),
        (MAIN, "evaluate", "deps", ["data/processed/validation"]),
        (CLAIMS, "measure", "params", ["trial"]),
    ],
)
def test_a_changed_pipeline_changes_the_picture_and_check_tells(project, monkeypatch, pipeline, stage, key, to):
    before = PAGE.read_text()
    change(pipeline, stage, key, to)
    with pytest.raises(PipelineError, match=r"^docs/architecture\.md: .*run `python -m checks\.architecture`$"):
        run(monkeypatch, "--check")
    assert PAGE.read_text() == before
    run(monkeypatch)
    assert PAGE.read_text() != before
    assert PAGE.read_text().partition(architecture.BEGIN)[0] == before.partition(architecture.BEGIN)[0]
    run(monkeypatch, "--check")


def test_a_module_more_among_the_dependencies_changes_nothing(project, monkeypatch):
    change(MAIN, "fetch", "deps", ["pipeline/new_module.py"])
    run(monkeypatch, "--check")


def test_a_picture_changed_by_hand_is_found(project, monkeypatch):
    PAGE.write_text(PAGE.read_text().replace("<b>fetch</b>", "<b>fetched</b>"))
    with pytest.raises(PipelineError, match=r"is not current; run `python -m checks.architecture`"):
        run(monkeypatch, "--check")


def test_markers_that_are_missing_are_told_of_the_page_and_not_of_the_readme(project, monkeypatch):
    PAGE.write_text("no markers")
    with pytest.raises(PipelineError, match=r"^docs/architecture\.md: should have the lines"):
        run(monkeypatch)


@pytest.mark.parametrize("content", ["5", "stages: []", "other: {}", "stages: {fetch: {outs: 5}}"])
def test_what_is_no_pipeline_file_is_told_in_one_line(project, monkeypatch, content):
    (project / MAIN).write_text(content)
    with pytest.raises(PipelineError, match=r"^dvc\.yaml: not as DVC reads it"):
        run(monkeypatch)
