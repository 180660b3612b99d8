"""The structure of the tests: what two modules share is in `tests/support`, and is defined there once."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from tests.support import constants, traces
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("tests", "benchmarks", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_bytes())


def imported(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def defined(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if isinstance(target, ast.Name):
                yield target.id


def public_names_of(module: ModuleType) -> set[str]:
    assert module.__file__ is not None
    return {name for name in defined(ast.parse((ROOT / module.__file__).read_bytes())) if not name.startswith("_")}


def test_no_module_imports_a_test_module() -> None:
    found = [
        f"{path} imports {name}"
        for path, module in modules()
        for name in imported(module)
        if name.startswith("tests.") and any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    ]
    assert found == []


def test_shared_constants_and_builders_are_defined_once() -> None:
    shared = public_names_of(constants) | public_names_of(traces)
    assert {"ORG", "SECRET", "MOMENT", "a_trace", "a_batch"} <= shared
    homes = {f"tests/support/{name}.py" for name in ("constants", "traces")}
    found = [
        f"{path} defines {name}"
        for path, module in modules()
        if path.parts[0] == "tests" and path.as_posix() not in homes
        for name in defined(module)
        if name in shared
    ]
    assert found == []
