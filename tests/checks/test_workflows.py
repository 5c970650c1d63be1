"""CI does what a laptop does, with pinned actions and few rights."""

import re
import shlex
import subprocess
from collections import defaultdict

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

yaml = YAML(typ="safe")
WORKFLOWS = {path.name: yaml.load(path) for path in (ROOT / ".github").glob("workflows/*")}
ACTIONS = {path.parent.name: yaml.load(path) for path in (ROOT / ".github").glob("actions/*/action.yml")}
JOBS = {f"{name}:{job}": content for name, workflow in WORKFLOWS.items() for job, content in workflow["jobs"].items()}
STEPS = [step for job in JOBS.values() for step in job["steps"]] + [step for action in ACTIONS.values() for step in action["runs"]["steps"]]
LINES = [line for step in STEPS if "run" in step for line in step["run"].splitlines()]

# What only GitHub has: a page for the summary, and a comment.
SHOW = {
    'echo "On GitHub it is in the artifact [diff]($ARTIFACT)." >> .diff/summary.md',
    'cat .diff/summary.md >> "$GITHUB_STEP_SUMMARY"',
    'cat .verify/summary.md >> "$GITHUB_STEP_SUMMARY"',
    'gh pr comment "$PULL_REQUEST" --edit-last --create-if-none --body-file .diff/summary.md',
}


def test_the_workflows_and_jobs_are_these():
    assert JOBS.keys() == {
        *(f"ci.yml:{job}" for job in ("lint", "test", "check", "spot-check", "diff")),
        *(f"nightly.yml:{job}" for job in ("verify", "resilience", "test-cluster")),
    }
    assert ACTIONS.keys() == {"setup"}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_runs_the_make_target_of_its_name_in_the_shared_environment_and_ends_in_time(job):
    lines = [step["run"] for step in JOBS[job]["steps"] if "run" in step]
    assert lines[0].split()[:2] == ["make", job.split(":")[1]]
    assert [step["uses"].split("@")[0] for step in JOBS[job]["steps"][:2]] == ["actions/checkout", "./.github/actions/setup"]
    assert JOBS[job]["timeout-minutes"] <= 180


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_a_make_target_that_exists_or_shows_a_summary(line):
    if line not in SHOW:
        program, *arguments = shlex.split(line)
        assert program == "make"
        done = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def test_no_line_contains_an_expression_which_could_bring_a_strangers_code():
    assert set(LINES) > SHOW
    assert not [line for line in LINES if "${{" in line]


def test_every_action_is_pinned_to_one_exact_version():
    versions = defaultdict(set)
    for use in [step["uses"] for step in STEPS if "uses" in step]:
        if use.startswith("./"):
            assert (ROOT / use / "action.yml").is_file()
        else:
            action, version = use.split("@")
            assert re.fullmatch(r"v\d+\.\d+\.\d+", version)
            versions[action].add(version)
    assert versions.keys() == {f"actions/{name}" for name in ("checkout", "setup-python", "cache", "upload-artifact")}
    assert {len(found) for found in versions.values()} == {1}


def test_only_the_job_that_comments_may_write_and_only_to_pull_requests():
    assert [workflow["permissions"] for workflow in WORKFLOWS.values()] == [{"contents": "read"}] * 2
    assert {job: content["permissions"] for job, content in JOBS.items() if "permissions" in content} == {
        "ci.yml:diff": {"contents": "read", "pull-requests": "write"}
    }
    assert all(step["with"]["persist-credentials"] is False for step in STEPS if step.get("uses", "").startswith("actions/checkout@"))


def test_artifacts_may_come_from_hidden_folders():
    uploads = [step["with"] for step in STEPS if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert len(uploads) == 2
    assert all(upload["path"].startswith(".") and upload["include-hidden-files"] is True for upload in uploads)


def test_python_is_that_of_the_mlflow_project():
    [python] = [step["with"]["python-version"] for step in STEPS if "python-version" in step.get("with", {})]
    assert python == yaml.load(ROOT / "python_env.yaml")["python"]
