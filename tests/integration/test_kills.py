"""The flow is killed or stopped at any moment: nothing is lost or duplicated or goes back in time.

The model is tiny, so that a run takes seconds. With a real model, which takes minutes:
`ROWVEC_TEST_MODEL=sentence-transformers/all-MiniLM-L6-v2 pytest <this file>`.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from flows.embedded.broker import Broker
from tests.integration.running import (
    BYTEWAX,
    METRICS,
    PATIENCE_S,
    ROWVEC,
    History,
    Process,
    Reader,
    bytewax_env,
    collection,
    docs_contract,
    everything,
    produce,
    quiet,
    rowvec,
    run_to_end,
)

pytestmark = pytest.mark.integration

REAL_MODEL = os.environ.get("ROWVEC_TEST_MODEL")
KILLS = 3
CHANGES = 50_000 if REAL_MODEL else 20_000
CAP = 4_000
"""Records that an epoch of one partition may hold, and so the most that a kill makes it read again."""


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Path | str:
    return REAL_MODEL or tiny_model


def seconds(short: float) -> float:
    return 3_600.0 if REAL_MODEL else short


@pytest.mark.timeout(seconds(900))
@pytest.mark.parametrize("seed", [1])
def test_three_kills_lose_nothing_and_turn_nothing_back(
    seed: int, broker: Broker, milvus: str, model: Path | str, tmp_path: Path
) -> None:
    name = tmp_path.name
    history, draw = History(rows=CHANGES // 5, changes=CHANGES, seed=seed), random.Random(seed)
    # Small windows: an old version that is visible for a moment stays long enough to be read.
    contract = docs_contract(
        tmp_path,
        broker,
        milvus,
        model,
        kafka={"source_batch_size": 100},
        flow={"max_epoch_records": CAP, "window_ms": 10},
    )
    broker.create_topic(name, History.PARTITIONS)
    produce(broker.bootstrap_servers, name, history.records)
    consumed = written = 0.0
    hot = Reader(milvus, name, history, hot=True)
    with Reader(milvus, name, history) as reader, hot:
        for _ in range(KILLS):
            with rowvec(tmp_path, "run", "-c", contract) as flow:
                target = reader.seen + draw.randrange(CHANGES // 500, CHANGES // 20)
                flow.wait_until(lambda target=target: reader.seen >= target, seconds(PATIENCE_S))
                time.sleep(draw.random() / 2)
                assert flow.code is None
                flow.kill()
            quiet(flow)
            consumed += flow.metrics()["rowvec.records.consumed"]
            written += flow.metrics()["rowvec.rows.written"]
        assert collection(milvus, name) != history.final  # The kills came before the end.
        flow = run_to_end(tmp_path, seconds(PATIENCE_S))
    assert collection(milvus, name) == history.final
    assert reader.faults == []
    assert hot.faults == []
    assert reader.looks > 2 * KILLS
    # The metrics of a killed process lack what it read and wrote in its last 0.2 s.
    again = consumed + flow.metrics()["rowvec.records.consumed"] - len(history.records)
    written += flow.metrics()["rowvec.rows.written"]
    print(
        f"{KILLS} kills: at least {again:,.0f} of {len(history.records):,} records read again, "
        f"{written:,.0f} rows written; {reader.looks} full scans saw {reader.seen:,} versions, "
        f"{hot.looks:,} looks at {len(history.hot)} rows {hot.seen:,}"
    )
    assert again <= KILLS * History.PARTITIONS * CAP


@pytest.mark.timeout(seconds(900))
def test_after_sigterm_nothing_is_read_or_written_again(
    broker: Broker, milvus: str, model: Path | str, tmp_path: Path
) -> None:
    name, history = tmp_path.name, History(rows=2_000, changes=10_000, seed=2)
    # Epochs so small that neither command reaches the end before it hears of SIGTERM.
    flow_section = {"max_epoch_records": 500}
    contract = docs_contract(tmp_path, broker, milvus, model, flow=flow_section)
    broker.create_topic(name, History.PARTITIONS)
    produce(broker.bootstrap_servers, name, history.records)
    env = bytewax_env(contract, recovery_files=4)
    consumed: list[float] = []
    with Reader(milvus, name, history) as reader:
        # First with Bytewax's command, then with Rowvec's, on the same recovery files.
        for command in (BYTEWAX, (*ROWVEC, "run")):
            with Process(tmp_path, command, {**METRICS, **env}) as flow:
                target = reader.seen + 300
                flow.wait_until(lambda target=target: reader.seen >= target, seconds(PATIENCE_S))
                flow.send(signal.SIGTERM)
                assert flow.wait(seconds(PATIENCE_S)) == 0, flow.stderr
            quiet(flow)
            consumed.append(flow.metrics()["rowvec.records.consumed"])
        assert "Stopped cleanly" in flow.stderr
        assert all(consumed)
        assert sum(consumed) < len(history.records)  # Both stopped before the end.
        last = run_to_end(tmp_path, seconds(PATIENCE_S))
    # No record is read twice.
    assert sum(consumed) + last.metrics()["rowvec.records.consumed"] == len(history.records)
    assert collection(milvus, name) == history.final
    assert reader.faults == []

    before = everything(milvus, name)
    idle = run_to_end(tmp_path)
    assert idle.metrics()["rowvec.records.consumed"] == 0
    assert idle.metrics()["rowvec.rows.written"] == 0
    assert everything(milvus, name) == before
