import subprocess
import sys

from benchmarks.rounding import INNER_SIZES, OPERATIONS
from tests.conftest import ROOT


def test_every_operation_has_a_hash_of_its_own():
    command = [sys.executable, "-m", "benchmarks.rounding"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    names = [line.split("  ")[1] for line in lines]
    assert names == [*(f"product, {size} terms" for size in INNER_SIZES), *OPERATIONS]
    assert len({line.split("  ")[0] for line in lines}) == len(names)
