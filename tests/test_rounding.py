import subprocess
import sys

from benchmarks.rounding import INNER_SIZES, OPERATIONS
from tests.conftest import ROOT


def test_every_operation_is_hashed_and_gives_the_same_again():
    command = [sys.executable, "-m", "benchmarks.rounding"]
    first, second = (subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout for _ in range(2))
    names = [line.split("  ")[1] for line in first.splitlines()]
    assert names == [*(f"product, {size} terms" for size in INNER_SIZES), *OPERATIONS]
    assert len({line.split("  ")[0] for line in first.splitlines()}) == len(names)
    assert first == second
