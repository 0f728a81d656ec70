"""The same work in Quix Streams: a streaming dataframe, one state per row, and a batching sink.

Quix Streams 3.28.1 cannot be installed beside Rowvec: it needs `confluent-kafka<2.13`, Rowvec needs
`>=2.16` (and it keeps pydantic below 2.14). So it is installed in a separate folder, and runs in its
own process that imports from there first; torch, sentence-transformers and pymilvus are the same as for
the other peers. `make bench` installs it; by hand:

    pip install --target .venv/quix quixstreams==3.28.1
    python -m benchmarks.end_to_end --quix .venv/quix

The process measures itself, with the model loaded and warm, from the first record to the answer to the
last write. Joining the consumer group, which takes seconds, is left out. Its settings are the defaults:
at least once, changelog topics on, a checkpoint every 5 seconds. The checkpoint writes the sink's
batch, so it embeds a row at most once in 5 seconds, and a change may be 5 seconds old before it can be
found. It retries only what the sink asks it to, and also embeds texts that have not changed.
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
    """Run to the end of the topic in a new process, and check the collection.

    Args:
        job: The work.
        model: The folder of the model, or its name.
        installed: The folder of Quix Streams.
        group: Its consumer group; a new one, since an old one would resume at its last offset.
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
    """Entry point of the new process: do the task in the first argument, and print the rates."""
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
            # Not on the main thread, like all contestants: see `benchmarks.end_to_end`.
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
