"""The trial key: equal keys promise equal bytes, so a finished trial need never be trained twice."""

import ast
import hashlib
import json
from pathlib import Path

from pipeline.environment import computing_environment
from pipeline.trial_config import TrialConfig

PACKAGE = Path(__file__).parent


def trial_key(config: TrialConfig, data_md5: str) -> str:
    """SHA-256 over the configuration, the data, the code that training runs and what computes it."""
    return TrialKeys(data_md5).of(config)


class TrialKeys:
    """Gives the trials on one data set their keys; code and machine are looked at once, since that takes longer than a key."""

    def __init__(self, data_md5: str) -> None:
        self.data_md5 = data_md5
        self._common = {"data_md5": data_md5, "code": code_fingerprint("trial"), "environment": computing_environment()}

    def of(self, config: TrialConfig) -> str:
        """Give a trial its key."""
        described = {"config": config.model_dump(), **self._common}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def code_fingerprint(module: str) -> str:
    """SHA-256 over the syntax trees of a module and of all it imports from this package: comments do not count."""
    digest = hashlib.sha256()
    for name in sorted(imported_modules(module)):
        tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
        digest.update(f"{name}: {ast.dump(tree)}\n".encode())
    return digest.hexdigest()


def imported_modules(module: str) -> set[str]:
    """Names of the modules of this package that `module` needs, itself included, wherever the import stands."""
    found: set[str] = set()
    pending = {module}
    while pending:
        name = pending.pop()
        found.add(name)
        tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
        pending |= {imported for node in ast.walk(tree) for imported in _imports_of(node)} - found
    return found


def _imports_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and node.module == "pipeline":
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline."):
        return [node.module.split(".")[1]]
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pipeline.")]
    return []
