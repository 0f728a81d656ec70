"""What commands write: no control character of a record, in any encoding, and JSON that stays JSON."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.commands import options
from flows.process import preflight
from flows.replay import dead_letters
from operators.changes.events import KafkaPosition
from operators.errors import FatalError
from tests.integration.running import write_contract
from tests.unit.process.test_secrets import sections
from tests.unit.test_printable import EVIL, FORGED, is_harmless
from tests.zygote import ROOT


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("rowvec", "operators", "flows"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    return write_contract(tmp_path / "rowvec.toml", **sections(tmp_path))


def letter(evil: str) -> dead_letters.Letter:
    return dead_letters.Letter(
        position=KafkaPosition(f"app.public.docs{evil}", 0, 1),
        at=KafkaPosition("dead", 0, 1),
        generation=0,
        key_digest=None,
        value_digest=None,
        stage=evil,
        subject=f"row {evil}",
        cause=f"column '{evil}' [red]is new[/]",
        hint=evil,
        when_ms=None,
        status="open",
    )


def run(*argv: str) -> str:
    done = CliRunner().invoke(cli.app, list(argv), env={"COLUMNS": "1000"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output


def is_clean(output: str) -> bool:
    lines = output.split("\n")
    return all(map(is_harmless, lines)) and not any(line.startswith(FORGED) for line in lines)


@pytest.mark.parametrize("evil", EVIL)
def test_letters_are_listed_without_escapes(
    evil: str, contract: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "read_letters", lambda _: [letter(evil)])
    monkeypatch.setattr(dead_letters, "select", lambda letters, *_, **__: letters)
    listed = run("dead-letters", "list", "-c", str(contract))
    assert is_clean(listed)
    assert "[red]is new[/]" in listed
    rows = run("dead-letters", "list", "--json", "-c", str(contract))
    assert is_clean(rows)
    assert json.loads(rows)[0]["stage"] == evil


@pytest.mark.parametrize("evil", EVIL)
def test_checks_are_told_without_escapes(
    evil: str, contract: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = FatalError(subject=f"table {evil}", cause=evil, hint=evil)
    found = [
        preflight.Outcome("tables", f"fits {evil}", warnings=(f"new: {evil}",)),
        preflight.Outcome("ledger", "", error),
    ]
    monkeypatch.setattr(preflight, "outcomes", lambda *_: iter(found))
    assert is_clean(run("check", "-c", str(contract)))
    checks = run("check", "--json", "-c", str(contract))
    assert is_clean(checks)
    assert json.loads(checks)[0]["message"] == f"fits {evil}"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "iso2022_jp"])
def test_what_an_encoding_cannot_write_is_escaped(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"text": "數據 👩‍💻 ✓ größe"}
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    options.write_in_any_encoding()
    options.print_json(value)
    out.flush()
    assert json.loads(out.buffer.getvalue().decode(encoding)) == value  # type: ignore[attr-defined]


PRINTS = """
import sys
from flows import cli, settings
from flows.process import preflight
from operators.errors import FatalError
preflight.outcomes = lambda *_: [
    preflight.Outcome("tables", "數據 fits"),
    preflight.Outcome("milvus", "", FatalError(subject="größe", cause="數據")),
]
sys.argv = ["rowvec", "check", "-c", sys.argv[1]]
cli.main()
"""


def test_check_where_the_output_is_ascii(contract: Path) -> None:
    env = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", PRINTS, str(contract)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "ok tables       \\u6578\\u64da fits" in done.stdout
    assert "FAILED milvus       gr\\xf6\\xdfe: \\u6578\\u64da." in done.stdout
    assert done.stderr == ""
