"""One flow in two processes that share a recovery directory on this machine."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Barrier

import pytest

from flows.embedded.broker import Broker
from flows.embedded.process import free_ports
from operators.store.protocol import CollectionSpec
from tests.integration.running import (
    PATIENCE_S,
    History,
    Process,
    Reader,
    collection,
    docs_contract,
    open_store,
    produce,
    quiet,
    rowvec,
    told,
)

pytestmark = pytest.mark.integration


def start_both(stack: ExitStack, directory: Path, *options: str) -> tuple[Process, Process]:
    addresses = ";".join(f"127.0.0.1:{port}" for port in free_ports(2))

    def start(number: int) -> Process:
        env = {"BYTEWAX_PROCESS_ID": str(number), "BYTEWAX_ADDRESSES": addresses}
        arguments = ("run", "-c", directory / "rowvec.toml", *options)
        return stack.enter_context(rowvec(directory, *arguments, env=env))

    return start(0), start(1)


def test_two_that_start_at_once_make_each_collection_once(milvus: str) -> None:
    specs = [CollectionSpec(f"at_once_{i}", {}, 4, "COSINE", "m@1") for i in range(20)]
    together = Barrier(2)

    def ensure_all() -> list[bool]:
        with closing(open_store(milvus)) as store:
            together.wait(PATIENCE_S)
            return [store.ensure(spec) for spec in specs]

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(ensure_all) for _ in range(2)]
        assert [future.result() for future in futures] == [[True] * len(specs)] * 2


def test_two_processes_keep_one_collection_through_the_death_of_one(
    broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
) -> None:
    name, history = tmp_path.name, History(rows=3_000, changes=12_000, seed=4)
    docs_contract(tmp_path, broker, milvus, tiny_model)
    broker.create_topic(name, History.PARTITIONS)
    produce(broker.bootstrap_servers, name, history.records)
    with Reader(milvus, name, history) as reader:
        with ExitStack() as stack:
            survivor, victim = start_both(stack, tmp_path)
            survivor.wait_until(lambda: reader.seen > 500)
            victim.kill()
            # The survivor ends by itself, so that a supervisor restarts both.
            assert survivor.wait() == 1, survivor.stderr
            quiet(survivor)
            told(survivor, "another process of the flow", "start all of them again")
        assert collection(milvus, name) != history.final
        with ExitStack() as stack:
            both = start_both(stack, tmp_path, "--exit-at-end")
            assert [process.wait() for process in both] == [0, 0], both[0].stderr + both[1].stderr
    assert collection(milvus, name) == history.final
    assert reader.faults == []
    for process in both:
        quiet(process)
        assert process.metrics()["rowvec.records.consumed"] > 0
        assert process.metrics()["rowvec.rows.written"] > 0
