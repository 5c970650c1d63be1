"""How a contender in a process of its own is told to work, and answers: one JSON line each way.

Needs the standard library and NumPy alone, since the peers have an environment of their own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.work import Work
from pipeline.common.errors import PipelineError

ROOT = Path(__file__).resolve().parent.parent
Prepare = Callable[[NDArray[np.int64]], Any]
Action = Callable[[Any], float]
Contender = tuple[Prepare, Mapping[str, Action]]  # what is done untimed to a block's order, and the timed actions on it


def serve(build: Callable[[Work], Contender]) -> None:
    """Build the contender, train one step, say so, and then do as asked until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not come between the answers
    work = Work.from_json(sys.argv[1])
    prepare, actions = build(work)
    actions["train"](prepare(work.order(0)[: work.batch_size]))
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        prepared = prepare(work.order(asked["block"]))
        began = time.perf_counter()
        value = actions[asked["action"]](prepared)
        seconds = time.perf_counter() - began
        _answer(answers, {"seconds": seconds, "value": value, "peak_gb": _peak_gb()})


def _peak_gb() -> float:
    # Not from getrusage, whose peak a new process takes over from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1e6


def _answer(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


class Process:
    """A contender that has trained its first step."""

    def __init__(self, python: Path, module: str, work: Work) -> None:
        command = [str(python), "-m", f"benchmarks.contenders.{module}", work.to_json()]
        variables = {**os.environ, "PYTHONPATH": str(ROOT)}
        began = time.perf_counter()
        self._module = module
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=ROOT, env=variables
        )
        self._questions, self._answers = cast(TextIO, self._process.stdin), cast(TextIO, self._process.stdout)
        self.answer()
        self.first_step_seconds = time.perf_counter() - began

    def ask(self, action: str, block: int) -> None:
        """Let it begin; `answer` waits for the end."""
        self._questions.write(json.dumps({"action": action, "block": block}) + "\n")
        self._questions.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the answer.

        Raises:
            PipelineError: the process died; the message holds what it last said.
        """
        line = self._answers.readline()
        if not line:
            self._log.seek(0)
            raise PipelineError(f"contender {self._module} died; the last it said was: {self._log.read()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._questions.close()
        self._process.wait()
        self._log.close()
