"""Which modules of the project a module needs, told from the text of its imports."""

import ast

from tests.conftest import ROOT

PACKAGES = ("pipeline", "claims")


def needed_modules(module: str) -> set[str]:
    """Paths of the modules that `module`, as `claims.study`, needs: itself and all it imports, wherever the import stands."""
    found: set[str] = set()
    pending = {module}
    while pending:
        name = pending.pop()
        found.add(name)
        tree = ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
        pending |= {imported for node in ast.walk(tree) for imported in _imports_of(node)} - found
    return {f"{name.replace('.', '/')}.py" for name in found}


def _imports_of(node: ast.AST) -> set[str]:
    names: set[str] = set()
    if isinstance(node, ast.Import):
        names = {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module in PACKAGES:
        names = {f"{node.module}.{alias.name}" for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
        names = {node.module or ""}
    return {name for name in names if name.startswith(tuple(f"{package}." for package in PACKAGES))}
