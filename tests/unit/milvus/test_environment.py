"""Importing pymilvus, which reads a file `.env` on its own account, changes nothing."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from operators.milvus.environment import keep_environment
from tests.zygote import ROOT

PYMILVUS = """
import os
os.environ.update(ROWVEC_MILVUS__TOKEN="from a file", PATH="from a file", ROWVEC_NEW="from a file")
if not os.environ.get("PYTHON_DOTENV_DISABLED"):
    os.environ["HTTPS_PROXY"] = "from a file"
del os.environ["GONE"]
"""


def test_the_environment_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWVEC_KAFKA__PASSWORD", "mine")
    before = dict(os.environ)
    with keep_environment():
        os.environ["ROWVEC_MILVUS__TOKEN"] = "theirs"
        os.environ["ROWVEC_KAFKA__PASSWORD"] = "theirs"
        del os.environ["PATH"]
    assert dict(os.environ) == before


def test_it_is_what_it_was_even_if_the_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_DOTENV_DISABLED", "0")
    with suppress(ImportError), keep_environment():
        os.environ["ROWVEC_MILVUS__TOKEN"] = "theirs"
        raise ImportError
    assert "ROWVEC_MILVUS__TOKEN" not in os.environ
    assert os.environ["PYTHON_DOTENV_DISABLED"] == "0"


def test_a_pymilvus_that_loads_a_file_changes_no_setting(tmp_path: Path) -> None:
    """In a process of its own, with a pymilvus that changes all that it can when it is imported."""
    (tmp_path / "pymilvus.py").write_text(PYMILVUS, "utf-8")
    code = (
        "import os\n"
        "before = dict(os.environ)\n"
        "import operators.milvus\n"
        "assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())\n"
    )
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    env = {"PATH": os.defpath, "PYTHONPATH": path, "GONE": "not yet"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
