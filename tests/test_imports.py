"""Imports run flows → operators → state → schemas, and each engine is spoken to in one package only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ALLOWED = {
    "schemas": {"schemas"},
    "state": {"state", "schemas"},
    "operators": {"operators", "state", "schemas"},
    "flows": {"flows", "operators", "state", "schemas"},
}
OURS = {*ALLOWED, "load_tests", "tests", "deploy"}
HOME = {
    "bytewax": "flows",
    "confluent_kafka": "flows",
    "boto3": "flows",
    "rocksdict": "state",
    "obstore": "state",
    "river": "operators",
    "numba": "operators",
}


def imported(source: str) -> set[str]:
    """Top-level names of all modules that `source` imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def forbidden(package: str, source: str) -> set[str]:
    """What a module of `package` imports and must not."""
    found = imported(source)
    return {name for name in found if name in OURS and name not in ALLOWED[package]} | {
        name for name in found if HOME.get(name, package) != package
    }


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_no_module_imports_against_the_direction(root: Path, package: str) -> None:
    modules = sorted((root / package).rglob("*.py"))
    assert modules
    bad = {str(path.relative_to(root)): forbidden(package, path.read_text()) for path in modules}
    assert {path: names for path, names in bad.items() if names} == {}


@pytest.mark.parametrize(
    ("package", "source", "names"),
    [
        ("state", "import flows.cli", {"flows"}),
        ("operators", "def f():\n    from bytewax import operators", {"bytewax"}),
        ("flows", "import rocksdict", {"rocksdict"}),
        ("flows", "from load_tests import demo", {"load_tests"}),
        ("flows", "from operators.seen import Seen\nimport bytewax", set()),
    ],
)
def test_the_check_itself_sees_a_wrong_import(package: str, source: str, names: set[str]) -> None:
    assert forbidden(package, source) == names
