"""The layout is what ARCHITECTURE.md says: small files, and packages that give what `__all__` names."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 350
FILES = [each for part in ("operators", "flows") for each in sorted((ROOT / part).rglob("*.py"))]
PACKAGES = sorted(
    ".".join(each.parent.relative_to(ROOT).parts)
    for each in FILES
    if each.name == "__init__.py" and each.parent.parent != ROOT
)


def test_no_file_is_long() -> None:
    long = {str(each.relative_to(ROOT)): len(each.read_text().splitlines()) for each in FILES}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_lives_there(package: str) -> None:
    source = (ROOT / package.replace(".", "/") / "__init__.py").read_text()
    assert "May import: " in (ast.get_docstring(ast.parse(source)) or "")
    named = import_module(package).__all__
    assert sorted(named) == list(named)
    for name in named:
        import_module(f"{package}.{name}")


def test_others_import_only_what_a_package_gives() -> None:
    wrong = [
        f"{importer} imports {package}.{name}"
        for importer, package, name in _imports()
        if not f"{importer}.".startswith(f"{package}.")
        and package in PACKAGES
        and name not in import_module(package).__all__
    ]
    assert wrong == []


def _imports() -> Iterator[tuple[str, str, str]]:
    """(module, package that it imports from, module of that package)."""
    modules = {".".join(each.relative_to(ROOT).with_suffix("").parts) for each in FILES}
    for file in FILES:
        importer = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    package, _, name = (whole if whole in modules else node.module).rpartition(".")
                    yield importer, package, name
