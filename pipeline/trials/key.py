"""The trial key: equal keys promise equal bytes, so a finished trial need never be trained twice."""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path

from pipeline.training.config import TrialConfig
from pipeline.training.environment import computing_environment

PACKAGE = Path(__file__).parents[1]


def trial_key(config: TrialConfig, data_md5: str) -> str:
    """SHA-256 over the configuration, the data, the code that training runs and what computes it."""
    return TrialKeys(data_md5).of(config)


class TrialKeys:
    """Gives the trials on one data set their keys; code and machine are looked at once, since that takes longer than a key."""

    def __init__(self, data_md5: str) -> None:
        self.data_md5 = data_md5
        self._common = {"data_md5": data_md5, "code": code_fingerprint(), "environment": computing_environment()}

    def of(self, config: TrialConfig) -> str:
        """Give a trial its key."""
        described = {"config": config.model_dump(), **self._common}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


@cache
def code_fingerprint() -> str:
    """Return the SHA-256 of the code that decides a trial's bits: the syntax trees of its files, without docstrings."""
    digest = hashlib.sha256()
    for path in [*sorted((PACKAGE / "training").rglob("*.py")), PACKAGE / "images/arrays.py"]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                del node.body[0]
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}: {ast.dump(tree)}\n".encode())
    return digest.hexdigest()
