"""Real text that every machine has: the documentation of Python's standard library."""

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LEFT_OUT = frozenset({"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages"})

_KINDS = {
    ast.ClassDef: "class",
    ast.FunctionDef: "function",
    ast.AsyncFunctionDef: "function",
}


@dataclass(frozen=True, slots=True)
class Docstring:
    """One documented object of the standard library."""

    module: str
    name: str
    kind: str
    doc: str


@dataclass(frozen=True, slots=True)
class Module:
    """One module, by package and name, with the first line of its documentation."""

    package: str
    module: str
    lines: int
    summary: str


def stdlib() -> tuple[list[Docstring], list[Module]]:
    """All documented objects and modules, always in the same order.

    The sources are parsed, not imported, because some modules print, open a browser, or need a display.
    """
    docs: list[Docstring] = []
    modules: list[Module] = []
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if _LEFT_OUT & set(parts) or parts[0].startswith("config-"):
            continue
        try:
            source = path.read_bytes()
            tree = ast.parse(source)
        except (SyntaxError, ValueError, OSError):
            continue
        package, name = parts[0], ".".join(parts).removesuffix(".__init__")
        summary = (ast.get_docstring(tree) or "").strip().partition("\n")[0]
        if summary:
            modules.append(Module(package, name, source.count(b"\n"), summary))
            docs.append(Docstring(name, name, "module", ast.get_docstring(tree) or ""))
        docs += _documented(name, tree, name)
    # Some objects are defined several times, for different platforms.
    return list({d.name: d for d in docs}.values()), modules


def sample(items: list[Docstring], count: int) -> list[Docstring]:
    """`count` docstrings, spread evenly over the whole library."""
    if count >= len(items):
        return items
    return [items[i * len(items) // count] for i in range(count)]


def _documented(module: str, node: ast.AST, prefix: str) -> Iterator[Docstring]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}.{child.name}"
            doc = ast.get_docstring(child)
            if doc and "\0" not in doc:  # PostgreSQL's text cannot hold it
                yield Docstring(module, name, _KINDS[type(child)], doc)
            yield from _documented(module, child, name)
        elif isinstance(child, ast.If | ast.Try):
            yield from _documented(module, child, prefix)
