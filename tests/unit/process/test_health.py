"""The probes' answers; and they must be cheap, because they run every few seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from operators.errors import ContractError

HEAVY = {
    "torch",
    "transformers",
    "tokenizers",
    "pymilvus",
    "bytewax",
    "confluent_kafka",
    "numpy",
    "opentelemetry",
    "orjson",
}


@pytest.fixture
def heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "beat"
    monkeypatch.setenv("ROWVEC_HEARTBEAT_FILE", str(path))
    return path


def age(path: Path, seconds: float) -> None:
    path.touch()
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize("probe", ["live", "ready"])
def test_a_probe_imports_nothing_heavy(probe, tmp_path):
    beat = tmp_path / "beat"
    beat.touch()
    found = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flows.cli", "health", probe],
        env={**os.environ, "ROWVEC_HEARTBEAT_FILE": str(beat)},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {
        line.rsplit("|", 1)[-1].strip().split(".")[0]
        for line in found.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert {"flows", "typer"} <= imported
    assert imported & HEAVY == set()


@pytest.mark.parametrize("probe", ["live", "ready"])
def test_no_checkpoint_yet(probe, heartbeat):
    result = CliRunner().invoke(app, ["health", probe])
    assert result.exit_code == 1
    assert "no checkpoint yet" in result.stderr
    assert not heartbeat.exists()


@pytest.mark.parametrize(
    ("arguments", "seconds", "code"),
    [
        (["live"], 0, 0),
        (["live"], 300, 0),
        (["live"], 400, 1),
        (["live"], 1_000, 1),
        (["live", "--max-age", "2000"], 1_000, 0),
        (["live", "--max-age", "10"], 100, 1),
        (["ready"], 1_000_000, 0),
        (["live"], -300, 0),
        (["live"], -1_000, 1),  # the clock was set back, and no checkpoint came since
    ],
)
def test_the_age_of_the_last_checkpoint(arguments, seconds, code, heartbeat):
    age(heartbeat, seconds)
    result = CliRunner().invoke(app, ["health", *arguments])
    assert result.exit_code == code
    assert ("the last checkpoint was " in result.stderr) == bool(code)


@pytest.mark.parametrize("probe", ["live", "ready"])
def test_a_probe_that_does_not_know_where_to_look(probe, monkeypatch):
    monkeypatch.delenv("ROWVEC_HEARTBEAT_FILE", raising=False)
    result = CliRunner().invoke(app, ["health", probe])
    assert isinstance(result.exception, ContractError)
    assert "ROWVEC_HEARTBEAT_FILE: is not set" in str(result.exception)
