"""Finds programs inside installed Python packages."""

import importlib.util
import os
import sys
from pathlib import Path

from operators.errors import FatalError


def package_file(package: str, *parts: str, extra: str = "demo") -> Path:
    """A file inside an installed package, found without importing it (imports have side effects).

    Args:
        package: The import name.
        parts: The path below the package's folder.
        extra: The extra of rowvec that installs the package, for the message.

    Raises:
        FatalError: The package or the file is missing.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent.joinpath(*parts) if spec and spec.origin else None
    if path is None or not path.exists():
        raise FatalError(
            subject=package,
            cause="a part of the embedded stack is not installed",
            hint=f"Install rowvec[{extra}]",
        )
    return path


def package_root() -> Path:
    """The folder that holds the package `flows`."""
    return Path(__file__).resolve().parents[2]


def import_path() -> str:
    """PYTHONPATH with which a child can import the same as this process; this package comes first."""
    root = str(package_root())
    return os.pathsep.join([root, *(entry for entry in sys.path if entry not in ("", root))])
