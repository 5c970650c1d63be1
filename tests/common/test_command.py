import errno
import os
import signal
import subprocess
import sys

import pytest

from pipeline.common.command import interrupted_afterwards, run
from pipeline.common.errors import PipelineError
from tests.conftest import ROOT

STAGES = ["fetch", "preprocess", "train", "evaluate", "report", "one_trial", "compare"]


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.fixture(autouse=True)
def _restored_signal():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_users_error_is_one_line_and_exit_code_1():
    with pytest.raises(SystemExit) as left:
        run(raising(PipelineError("params.yaml: trial.epochs: should be positive")))
    assert left.value.code == "error: params.yaml: trial.epochs: should be positive"


def test_a_full_disk_is_explained():
    with pytest.raises(SystemExit, match=r"no space left .*weights\.h5"):
        run(raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights.h5")))


def test_a_missing_file_is_named():
    with pytest.raises(SystemExit, match=r"data/raw/x\.bin.*dvc repro"):
        run(raising(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "data/raw/x.bin")))


def test_an_unforeseen_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))


def test_ctrl_c_ends_with_the_shells_code():
    with pytest.raises(SystemExit) as left:
        run(raising(KeyboardInterrupt()))
    assert left.value.code == 130


def test_sigterm_is_taken_as_ctrl_c():
    with pytest.raises(SystemExit) as left:
        run(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert left.value.code == 130


@pytest.fixture
def heard():
    """Interrupts are heard, also where the tests run in the background of a shell, which has them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_the_end_of_a_block_and_a_second_does_not(number):
    ended = []
    with pytest.raises(KeyboardInterrupt), interrupted_afterwards():
        os.kill(os.getpid(), number)
        ended.append("first")
    with pytest.raises(KeyboardInterrupt), interrupted_afterwards():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        ended.append("second")
    assert ended == ["first"]


def test_an_interrupt_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupted_afterwards():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("stage", STAGES)
def test_help_needs_no_tensorflow(stage):
    program = f"import sys, runpy; sys.argv = ['x', '--help']\ntry: runpy.run_module('pipeline.{stage}', run_name='__main__')\n"
    program += "except SystemExit as left: print('tensorflow' in sys.modules, left.code)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m pipeline.")
    assert done.stdout.splitlines()[-1] == "False 0"
