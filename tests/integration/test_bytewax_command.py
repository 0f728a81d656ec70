"""The flow under Bytewax's own command, `python -m bytewax.run`, with Milvus Lite in its process."""

import signal
from pathlib import Path

import pytest

from flows.embedded.broker import Broker
from tests.changes import put
from tests.integration.running import (
    BYTEWAX,
    METRICS,
    Process,
    bytewax_env,
    collection,
    docs_contract,
    produce,
    quiet,
)

pytestmark = pytest.mark.integration


def test_sigterm_ends_it_and_releases_the_lease(
    broker: Broker, tiny_model: Path, tmp_path: Path
) -> None:
    """Python shuts its thread pools down before `atexit`, and Milvus Lite answers from such a pool."""
    milvus = str(tmp_path / "milvus.db")
    broker.create_topic(tmp_path.name, 1)
    rows = [(0, *put(number, number, f"text {number}", op="c")) for number in range(3)]
    produce(broker.bootstrap_servers, tmp_path.name, rows)
    contract = docs_contract(tmp_path, broker, milvus, tiny_model)
    env = bytewax_env(contract, recovery_files=2)
    with Process(tmp_path, BYTEWAX, {**METRICS, **env}) as flow:
        flow.wait_until(lambda: flow.metrics()["rowvec.rows.written"] == 3)
        flow.send(signal.SIGTERM)
        assert flow.wait() == 0, flow.stderr
    quiet(flow)
    assert "not let go" not in flow.stderr
    assert len(collection(milvus, tmp_path.name)) == 3  # the directory is free again
