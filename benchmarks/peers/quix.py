"""Quix Streams with the same work: a streaming dataframe, state by row, and a batching sink.

Quix Streams 3.28.1 cannot be installed beside Rowvec: it asks for `confluent-kafka<2.13`, Rowvec for
`>=2.16` (and it holds pydantic below 2.14). So it lies in a folder of its own, and runs in a process
of its own that looks there first; torch, sentence-transformers and pymilvus are the very ones that the
others use. `make bench` installs it; by hand:

    pip install --target .venv/quix quixstreams==3.28.1
    python -m benchmarks.end_to_end --quix .venv/quix

Its process measures itself by its own clocks, after the model is loaded and warm, from the first
record to the answer to the last write: joining the consumer group, which takes it seconds, is left
out. Its settings are its defaults: at least once, changelog topics on, a checkpoint every 5 seconds,
and it is the checkpoint that writes the sink's batch. So it embeds a row once in 5 seconds, and a
change may be as old before anyone finds it. It retries nothing unless the sink says so, and never
asks whether a text has changed.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient

from benchmarks.measuring import Rate
from benchmarks.peers.job import (
    COLLECTION,
    Job,
    Outcome,
    Stopwatch,
    check_collection,
    entities,
    open_collection,
)

_LIMIT_SECONDS = 900.0


def run_quix(job: Job, model: Path | str, installed: Path, group: str) -> Outcome:
    """To the end of the topic, in a process of its own; its collection is checked.

    Args:
        job: What to do.
        model: The folder of the model, or its name.
        installed: Where Quix Streams is.
        group: Its consumer group; a new one, or it would go on where the last ended.
    """
    with tempfile.TemporaryDirectory() as name:
        task = {
            "bootstrap_servers": job.bootstrap_servers,
            "topic": job.topic,
            "events": job.events,
            "model": str(model),
            "group": group,
            "folder": name,
        }
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.peers.quix", json.dumps(task)],
            env={**os.environ, "PYTHONPATH": str(installed.resolve())},
            stdout=subprocess.PIPE,
            text=True,
            timeout=_LIMIT_SECONDS,
            check=True,
        )
        told = json.loads(done.stdout.splitlines()[-1])
        check_collection("Quix Streams", Path(name), job)
    return Outcome(Rate(told["wall"], told["cpu"]), told["embedded"])


def main() -> None:
    """The process of its own: do the task that the first argument holds, and print the rates."""
    from quixstreams import Application, State  # type: ignore[import-not-found]
    from quixstreams.sinks import BatchingSink  # type: ignore[import-not-found]
    from sentence_transformers import SentenceTransformer

    task = json.loads(sys.argv[1])
    folder = Path(task["folder"])
    model = SentenceTransformer(task["model"], device="cpu")
    watch, embedded = Stopwatch(), [0]

    class MilvusSink(BatchingSink):  # type: ignore[misc]
        def __init__(self, client: MilvusClient, pool: ThreadPoolExecutor) -> None:
            super().__init__()
            self._client = client
            self._pool = pool

        def write(self, batch: Iterable[Any]) -> None:
            rows = {item.value["id"]: item.value for item in batch}.values()
            if not rows:
                return
            # Off the main thread, like all contestants: see `benchmarks.end_to_end`.
            encoding = self._pool.submit(
                model.encode, [row["doc"] for row in rows], show_progress_bar=False
            )
            self._client.upsert(COLLECTION, entities(rows, encoding.result()))
            watch.written()
            embedded[0] += len(rows)

    def newest(envelope: Any, state: State) -> Any:
        watch.record()
        lsn = envelope["source"]["lsn"]
        if lsn < state.get("lsn", 0):
            return None
        state.set("lsn", lsn)
        return envelope["after"]

    with closing(open_collection(folder)) as client, ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(model.encode, ["warm"] * 64, show_progress_bar=False).result()
        app = Application(
            task["bootstrap_servers"],
            consumer_group=task["group"],
            auto_offset_reset="earliest",
            state_dir=folder / "state",
            consumer_extra_config={"fetch.wait.max.ms": 50},
            loglevel="WARNING",
        )
        rows = app.dataframe(app.topic(task["topic"], value_deserializer="json"))
        rows = rows.apply(newest, stateful=True)
        rows = rows.filter(lambda row: row is not None)
        rows.sink(MilvusSink(client, pool))
        app.run(count=task["events"], collect=False)
    rate = watch.rate(task["events"])
    print(json.dumps({"wall": rate.wall, "cpu": rate.cpu, "embedded": embedded[0]}), flush=True)


if __name__ == "__main__":
    main()
