import json
import re
import shutil
from itertools import pairwise, product
from xml.etree import ElementTree

import pytest

from benchmarks import report
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from tests.conftest import ROOT

SIZES = [8, 32, 64, 128, 512]
PEER = [(2, 1), (1, 2)]
SETUPS = {"project": [(1, 1), (2, 1)], "notebook": [(1, 2)], "pytorch_eager": PEER, "pytorch_compile": PEER, "jax_scan": PEER}
CELLS = list(product(SIZES, ["none", "batch"]))
GROWTH = {"seeds": {1: 12.0, 2: 20.0, 4: 36.0}, "epochs": {1: 9.0, 2: 12.0, 4: 18.0}, "workers": {1: 40.0, 2: 22.0}}
BEGIN = "<!-- speed: made by python -m benchmarks.report -->"
SECTIONS = {
    "machine": "## The machine",
    "steps": "## Training steps",
    "floor": "## Above the floor",
    "whole_jobs": "## Whole jobs",
    "growth": "## Growth",
    "precision_steps": "## Precision",
    "instruction_sets": "## Instruction sets",
}


def spread(median, n=5):
    return {"median": median, "min": 0.96 * median, "max": 1.05 * median, "n": n}


def step(contender, batch_size, normalization, processes, threads):
    speed = 90 * batch_size**0.75 * (1 + len(contender) / 12) * (processes + 0.2 * threads) / (1.3 if normalization == "batch" else 1)
    return {
        "contender": contender, "batch_size": batch_size, "normalization": normalization, "processes": processes, "threads": threads,
        "step_ms": spread(1e3 * batch_size * processes / speed), "images_per_s": spread(speed), "first_step_s": 3.2,
        "peak_memory_gb": 0.9, "losses": [2.1, 1.9], "same_work": True,
    }  # fmt: skip


def floor(batch_size, normalization):
    times = {"products_ms": spread(batch_size / 20), "optimizer_ms": spread(2.5), "step_ms": spread(batch_size / 18 + 3)}
    return {"batch_size": batch_size, "normalization": normalization, **times, "over_floor": spread(1.17), "evaluation_s": spread(0.45)}


def whole_jobs():
    parts = {"download": 20.0, "start-up": 40.0, "training": 600.0, "evaluation each epoch": 90.0, "idle worker": 20.0}
    names = ["baseline", "batch_norm", "lambda_1", "lambda_2", "lambda_3"]
    trainings = [{"name": name, "batch_size": 64, "first_epoch_s": 8.0, "later_epoch_s": 7.0} for name in names]
    return {
        "notebook": {"epochs_run": 2, "epochs_scaled_to": 20, "start_up_s": 9.0, "trainings": trainings, "scaled_s": 714.0},
        "dvc_repro_of_the_same_five": {"seconds": 241.0},
        "full_repro": {"seconds": 800.0, "trials": 20, "parts": {**parts, "MLflow and results": 16.0, "evaluate": 9.0, "DVC": 5.0}},
        "noop_repro_s": spread(2.1, n=3),
    }


def instruction_sets():
    found = [("everything", "a", 0.0), ("at most AVX-512", "a", 0.0), ("at most AVX2", "b", 0.0312)]
    common = {"arm": "batch_norm", "normalization": "batch"}
    trainings = [
        {"setting": setting, **common, "weights": weights * 64, "largest_difference": {"val_accuracy": difference}}
        for setting, weights, difference in found
    ]
    steps = [{"setting": training["setting"], "normalization": "batch", "step_ms": spread(4.0)} for training in trainings]
    return {"epochs": 20, "settings": {}, "trainings": trainings, "steps": steps, "largest_difference": {"val_accuracy": 0.0312}}


def make_results():
    packages = {"python": "3.11.9", "tensorflow-cpu": "2.18.0", "keras": "3.8.0", "numpy": "2.0.2", "torch": "2.6.0", "jax": "0.5.0"}
    environment = {**packages, "cpu": "A CPU", "instructions": "AVX-512", "cores": 2, "memory_gb": 23.4}
    return {
        "environments": [{"environment": environment, "parts": ["growth", "steps"]}],
        "measured_at": {"steps": "abc1234", "growth": "def5678-dirty"},
        "machine": {"gemm_gflops": {"1": spread(70.0), "2": spread(130.0)}, "memory_copy_gb_per_s": {"1": spread(8.0), "2": spread(11.0)}},
        "steps": [step(name, *cell, *way) for cell in CELLS for name, ways in SETUPS.items() for way in ways],
        "floor": [floor(*cell) for cell in CELLS],
        "whole_jobs": whole_jobs(),
        "growth": [{"what": what, "value": value, "seconds": curve[value]} for what, curve in GROWTH.items() for value in curve],
        "precision": [
            {"precision": name, "arm": "batch_norm", "val_accuracy": {"mean": 0.4983, "sd": 0.004, "n": 7}}
            for name in ("float32", "bfloat16")
        ],
        "instruction_sets": instruction_sets(),
        "precision_steps": [{"precision": "bfloat16", "normalization": "batch", "step_ms": spread(3.5)}],
        "ratios": {
            "notebook_whole_job": 3.6, "best_peer_images_per_s": 1.1, "step_over_floor": 1.15, "not_training_share": 0.25,
            "noop_repro_s": 2.1, "worker_peak_gb": 1.2504, "two_workers_over_one": 1.85,
        },
    }  # fmt: skip


@pytest.fixture
def results():
    return make_results()


def readme(results):
    return report.render("README.md.jinja", results)


def row(text, start):
    [line] = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return line


def texts(svg):
    return {"".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["report"])
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/speed.md").write_text(f"Before.\n{BEGIN}\nold\n<!-- end of speed -->\nAfter.\n")
    return tmp_path / "benchmarks"


def bytes_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("notebook over project", "3.600 | ≥ 3.5 | ✓ met"),
        ("project over best peer", "1.100 | ≥ 1.2 | ✗ not met"),
        ("step over floor", "1.150 | ≤ 1.15 | ✓ met"),
        ("share that is not training", "0.250 | ≤ 0.1 | ✗ not met"),
        ("no-op", "2.100 s | ≤ 4 s | ✓ met"),
        ("worker's peak memory", "1.250 GB | ≤ 1.2 GB | ✗ not met"),
        ("two workers over one", "1.850 | ≥ 1.8 | ✓ met"),
    ],
)
def test_every_ratio_stands_beside_its_goal(results, start, end):
    assert row(readme(results), start).startswith(f"| {start} | {end} |")


def test_a_ratio_follows_the_results(results):
    results["ratios"]["notebook_whole_job"] = 3.4
    assert "| 3.400 | ≥ 3.5 | ✗ not met |" in row(readme(results), "notebook over project")


def test_a_ratio_that_is_absent_is_neither_met_nor_missed(results):
    del results["ratios"]["worker_peak_gb"]
    assert "| – | ≤ 1.2 GB | not measured |" in row(readme(results), "worker's peak memory")


def test_other_ratios_are_listed_without_a_goal(results):
    assert "Without a goal" not in readme(results)
    results["ratios"] |= {"graph_over_eager": 2.346, "copies": spread(3.0)}
    assert "- copies: 3.00 (2.88–3.15)\n- graph over eager: 2.35\n" in readme(results)


def test_the_environment_and_the_rounds_are_told(results):
    text = readme(results)
    assert "- A CPU (AVX-512), 2 cores, 23.4 GB, with Python 3.11.9" in text
    assert "torch 2.6.0" in text
    assert "at commit def5678-dirty (growth), abc1234 (steps)" in text
    assert "over 3 to 5 rounds" in text


def test_the_page_on_speed_tells_the_headline_figures(results, folder):
    (folder / "results.json").write_text(json.dumps(results))
    report.main()
    text = (folder.parent / "docs/speed.md").read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("\nAfter.\n")
    assert "old" not in text
    for figure in ("13.3 minutes", "take 3.60 times", "takes 1.15 times", "1.10 times as many", "takes 2.10 s"):
        assert figure in text


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """A copy of the committed report, in which `--check` is asked."""
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs/speed.md", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["report", "--check"])
    return tmp_path


def test_the_committed_report_is_made_from_the_committed_results(committed):
    report.main()


@pytest.mark.parametrize("spoilt", ["docs/speed.md", "benchmarks/README.md", "benchmarks/figures/images_per_s.svg"])
def test_a_figure_that_was_not_measured_is_found(committed, spoilt):
    path = committed / spoilt
    before, marker, after = path.read_text().rpartition(BEGIN if spoilt == "docs/speed.md" else "<")
    path.write_text(f"{before}{marker}{after.replace('1', '2', 1) if spoilt == 'docs/speed.md' else '2' + after}")
    with pytest.raises(PipelineError, match=r"python -m benchmarks\.report"):
        report.main()


def test_a_short_run_is_reported_in_markdown(results):
    cell = [step for step in results["steps"] if step["batch_size"] == 64]
    text = report.render("quick.md.jinja", {"steps": cell, "floor": results["floor"][4:6], "ratios": {"step_over_floor": 1.17}})
    assert "| this project | BN | 2×1 |" in text
    assert "- step over floor: 1.17\n" in text


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_that_was_not_measured_is_left_out(results, section):
    assert SECTIONS[section] in readme(results)
    del results[section]
    text = readme(results)
    assert [name for name, title in SECTIONS.items() if title not in text] == [section]


def test_ratios_alone_make_a_report(results):
    made = report.make_report({name: results[name] for name in ("environments", "ratios")})
    assert list(made) == ["README.md"]
    assert "NOTES.md" in made["README.md"]


@pytest.mark.parametrize("job", ["notebook", "dvc_repro_of_the_same_five", "full_repro", "noop_repro_s"])
def test_a_whole_job_that_was_not_measured_is_left_out(results, job):
    del results["whole_jobs"][job]
    text = readme(results)
    assert "## Whole jobs" in text
    assert ("A full `dvc repro` of" in text) == (job != "full_repro")


def test_every_figure_is_shown_and_every_shown_figure_is_drawn(results):
    made = report.make_report(results)
    assert set(re.findall(r"\((figures/[^)]*)\)", made["README.md"])) == made.keys() - {"README.md"}
    for svg in made.keys() - {"README.md"}:
        assert ElementTree.fromstring(made[svg]).tag.endswith("svg")


def test_lines_are_labelled_directly_and_axes_carry_units(results):
    svg = report.make_report(results)["figures/images_per_s.svg"]
    assert {"this project", "PyTorch eager", "images/s of the whole machine"} <= texts(svg)


def test_a_contender_stands_with_its_best_set_up(results):
    for one in results["steps"]:
        if (one["contender"], one["batch_size"], one["normalization"]) == ("jax_scan", 64, "batch"):
            one["images_per_s"] = spread(7777.0 if one["processes"] == 1 else 5555.0)
    text = readme(results)
    assert "7777 (7466–8166), 1×2" in text
    assert "5555 (5333–5833), 2×1" not in text


def test_a_batch_size_that_a_contender_lacks_is_a_dash(results):
    results["steps"] = [one for one in results["steps"] if (one["contender"], one["batch_size"]) != ("notebook", 512)]
    text = readme(results)
    assert text.count(", 1×2 | – |") == 2


def test_contenders_that_did_other_work_are_named(results):
    assert "all of them did the same work" in readme(results)
    results["steps"][0]["same_work"] = False
    assert re.search(r"\*\*Not the same work\*\*.*: this project 1×1 at batch size 8, no BN\.\n", readme(results))
    assert "all of them did the same work" not in readme(results)


def test_parts_of_a_full_run_are_any_and_come_longest_first(results):
    results["whole_jobs"]["full_repro"] = {"seconds": 40.0, "trials": 2, "parts": {"something": 10.0, "training": 30.0}}
    text = readme(results)
    assert "| training | 30.0 | 75.0 % |\n| something | 10.0 | 25.0 % |" in text
    assert "of 2 trials took 40.0 s" in text


def test_growth_tells_the_cost_of_a_unit(results):
    text = readme(results)
    assert "| seeds | 4 | 36.0 | 9.00 | 8.00 |" in text
    assert "| workers | 2 | 22.0 | 44.0 (× workers) | – |" in text


def test_precision_shows_accuracy_with_its_spread(results):
    assert "| batch norm | bfloat16 | 49.8\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.4\N{NO-BREAK SPACE}% | 7 |" in readme(results)


def test_tables_have_as_many_cells_in_every_row(results):
    widths = [line.count("|") if line.startswith("|") else 0 for line in readme(results).splitlines()]
    assert all(before == after for before, after in pairwise(widths) if before and after)


def test_the_same_results_give_the_same_bytes(results, folder):
    (folder / "results.json").write_text(json.dumps(results))
    report.main()
    first = bytes_below(folder)
    assert {"README.md", "figures/images_per_s.svg"} < first.keys()
    report.main()
    assert bytes_below(folder) == first


def test_a_figure_of_earlier_results_goes(results, folder):
    (folder / "results.json").write_text(json.dumps(results))
    report.main()
    del results["steps"]
    (folder / "results.json").write_text(json.dumps(results))
    report.main()
    assert not (folder / "figures/images_per_s.svg").exists()


def test_results_that_are_missing_are_one_line(folder):
    with pytest.raises(SystemExit) as left:
        run(report.main)
    assert left.value.code == "error: benchmarks/results.json: not found; run `make bench` first"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"environments": [{"cpu": "x"}], "ratios": {}}', '{"environments": 3}'])
def test_results_that_are_malformed_are_one_line(folder, text):
    (folder / "results.json").write_text(text)
    with pytest.raises(PipelineError, match=r"^benchmarks/results\.json: .*; run `make bench` again$"):
        report.main()
    assert not (folder / "README.md").exists()


def test_other_instructions_are_set_beside_what_everything_gives(results):
    text = readme(results)
    assert "| the same | 0.00 points |" in row(text, "at most AVX-512")
    assert "| bbbbbbbb | 3.12 points |" in row(text, "at most AVX2")


@pytest.mark.parametrize("path", [("steps", "images_per_s"), ("floor", "over_floor"), ("growth", "seconds"), ("precision", "val_accuracy")])
def test_a_figure_that_is_lacking_is_named(results, path):
    section, name = path
    del results[section][0][name]
    with pytest.raises(PipelineError, match=name):
        report.make_report(results)
