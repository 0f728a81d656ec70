"""A pytest plugin: the modules under test are those of the tree that pytest was started in.

An installed Rowvec, or the tree that the copy was made of, would pass every test whatever is taken out
of the copy, and every guard would look as if nobody missed it.
"""

import sys
from pathlib import Path

import pytest

ELSEWHERE = 9
"""Exit status where a module came from another place; none of pytest's own."""

PACKAGES = ("operators", "flows", "tests")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the whole session if anything of Rowvec was imported from outside of it."""
    root = session.config.rootpath.resolve()
    loaded = [
        Path(file).resolve()
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in PACKAGES
        and (file := getattr(module, "__file__", None)) is not None
    ]
    names = {path.relative_to(root).parts[0] for path in loaded if path.is_relative_to(root)}
    if "operators" not in names or not all(path.is_relative_to(root) for path in loaded):
        session.exitstatus = ELSEWHERE
