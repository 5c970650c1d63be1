import resource
import subprocess
import sys

import pytest

from pipeline.common.errors import PipelineError
from pipeline.common.parameters import MAXIMUM_DEPTH, read_yaml
from tests.conftest import ROOT

NOT_A_VALUE = r"not a value of the type {} \(.*line 2"
LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9))])
BROKEN = {
    "no integer": ('a: 1\nb: !!int "abc"', NOT_A_VALUE.format("int")),
    "empty integer": ('a: 1\nb: !!int ""', NOT_A_VALUE.format("int")),
    "empty fraction": ('a: 1\nb: [!!float ""]', NOT_A_VALUE.format("float")),
    "no truth": ("a: 1\nb: !!bool maybe", NOT_A_VALUE.format("bool")),
    "no date": ("a: 1\nb: 2020-13-45", NOT_A_VALUE.format("timestamp")),
    "many digits": (f"a: 1\nb: {'9' * 6000}", NOT_A_VALUE.format("int")),
    "many hexadecimal digits": (f"a: 1\nb: 0x{'f' * 6000}", NOT_A_VALUE.format("int")),
    "no character": ('a: "\\UFFFFFFFF"', "too large"),
    "deep": ("a: " + "[" * 5000, f"nested more than {MAXIMUM_DEPTH} deep.*line 1"),
    "laughs": (LAUGHS, r"anchors \(&\) and aliases \(\*\) are not allowed; write the value out.*line 1"),
    "itself": ("a: 1\nb: &b [*b]", "anchors.*line 2"),
    "merged": ("a: 1\nb: {<<: *a}", "anchors.*line 2"),
    "two documents": ("a: 1\n---\na: 2", "single document"),
    "not UTF-8": (b"a: \xff", "codec can't decode"),
    "UTF-16": ("a: 1".encode("utf-16"), "codec can't decode"),
}


@pytest.mark.reliability
@pytest.mark.parametrize(("content", "reason"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_read_is_refused_in_one_line_with_its_place(tmp_path, record_property, content, reason):
    (tmp_path / "params.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PipelineError, match=rf"^\S*/params\.yaml: not valid YAML: .*{reason}") as raised:
        read_yaml(tmp_path / "params.yaml")
    assert "\n" not in str(raised.value)
    record_property("bad_parameters_refused", 1)


def test_a_few_lines_take_no_gigabytes(tmp_path):
    (tmp_path / "params.yaml").write_text(f"{LAUGHS}\n{(ROOT / 'params.yaml').read_text()}")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.preprocess"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_nesting_up_to_the_bound_is_read(tmp_path):
    (tmp_path / "deep.yaml").write_text("[" * MAXIMUM_DEPTH + "]" * MAXIMUM_DEPTH)
    content = read_yaml(tmp_path / "deep.yaml")
    for _ in range(MAXIMUM_DEPTH - 1):
        (content,) = content
    assert content == []
