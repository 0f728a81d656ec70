"""The attack on one flow: start it, strike, look, judge, start it again."""

import re
import signal
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flows.embedded.broker import Broker
from operators.contract.sections import EmbeddingSection
from operators.crash_points import Point
from operators.errors import FatalError, RetriableError
from operators.milvus.store import MilvusStore
from operators.model.transformer import TransformerEmbedder
from tests.chaos import notes
from tests.chaos.checker import Checker, Replayed
from tests.chaos.kills import Kill, Plan
from tests.chaos.looking import Looker, look
from tests.chaos.sending import Feeder
from tests.chaos.stream import PARTITIONS, Stream
from tests.integration.running import docs_contract, open_store
from tests.zygote import Fork, Order, Zygote

ROWS = 600
"""Rows of a table at the most. Few, so that each of them changes often, and a look takes little."""

MAX_EPOCH_RECORDS = 2_000

PATIENCE_S = 5.0
"""How long a process that writes may take to come to its point; then it is killed from outside."""

STUCK_S = 60.0
"""A process that has not written by then will not."""


class Life(NamedTuple):
    """What became of one process.

    Attributes:
        point: Where it was killed; None from outside.
        reached: What it had come to: "starting", "recovering" (its source went on, nothing was written)
            or "writing".
        to_write_s: From its start to its first acknowledged write; None without one.
        model_s: Of that, the loading of the model.
        again: What it wrote that had been written before.
    """

    point: Point | None
    reached: str
    to_write_s: float | None
    model_s: float
    again: Replayed


@dataclass(slots=True)
class Toll:
    """What an attack came to.

    Attributes:
        looks, scans: How many times the hot rows, and all rows, were looked at.
    """

    lives: list[Life] = field(default_factory=list)
    looks: int = 0
    scans: int = 0


class Attack:
    """The attack on one flow with a topic, a collection and a recovery directory of its own.

    Args:
        directory: Its own; topic and collection are called as it is.
        zygote: Starts the processes.
        broker, milvus, model: What the flow works with.
        seed: Of its stream.
        plan: The kills, shared with others.
        stop: Set when another attack has failed.
    """

    def __init__(
        self,
        directory: Path,
        zygote: Zygote,
        broker: Broker,
        milvus: str,
        model: Path,
        seed: int,
        plan: Plan,
        stop: threading.Event,
    ) -> None:
        directory.mkdir()
        self._directory, self._zygote, self._plan, self._stop = directory, zygote, plan, stop
        self._milvus, self._model = milvus, model
        self.name = re.sub(r"\W", "_", directory.name)
        self.stream = Stream(ROWS, seed)
        self.checker = Checker(self.stream.truth)
        self.toll = Toll()
        self._count = 0
        # Many small windows: what goes back for a moment is there long enough to be seen.
        docs_contract(
            directory,
            broker,
            milvus,
            model,
            kafka={"source_batch_size": 100},
            flow={"max_epoch_records": MAX_EPOCH_RECORDS, "window_ms": 10},
            recovery={
                "directory": str(directory / "recovery"),
                "epoch_interval_s": 0.2,
                "partitions": 2,
            },
        )
        broker.create_topic(self.name, PARTITIONS)
        self._feeder = Feeder(
            broker, self.name, self.stream, seed + 1, lambda: sum(self.checker.seen)
        )

    def run(self) -> Toll:
        """Kill until the plan is done, then let the flow end in peace.

        Raises:
            AssertionError: A process did what none may: it ended by itself, or never wrote.
        """
        lookers = (
            Looker("hot reader", self._milvus, self.name, self.checker, self.stream.hot, 0.01),
            Looker("full scan", self._milvus, self.name, self.checker, None, 0.1),
        )
        try:
            self._feeder.start()
            with closing(open_store(self._milvus)) as store, lookers[0], lookers[1]:
                while not self._stop.is_set() and (kill := self._plan.take()) is not None:
                    self._one(kill)
                    self._at_rest(store)
                    self._feeder.check()
                    for looker in lookers:
                        looker.check()
                self._feeder.stop()
                if not self._stop.is_set():
                    self._finish(store)
        except BaseException:
            self._stop.set()
            raise
        finally:
            self.toll.looks, self.toll.scans = (looker.looks for looker in lookers)
            with suppress(AssertionError):
                self._feeder.stop()
        return self.toll

    def _start(self, env: dict[str, str]) -> tuple[Fork, Path]:
        self._count += 1
        written = self._directory / "notes.json"
        written.unlink(missing_ok=True)
        output = self._directory / "flow.log"
        with suppress(FileNotFoundError):
            output.rename(self._directory / "flow.log.1")
        order = Order(
            argv=("run", "-c", str(self._directory / "rowvec.toml")),
            env={"HOME": str(self._directory), **env},
            directory=str(self._directory),
            stdout=str(output),
            stderr=str(output),
            notes=str(written),
            collection=self.name,
        )
        return self._zygote.start(order), written

    def _one(self, kill: Kill) -> None:
        armed = {} if kill.point is None else {"ROWVEC_KILL_AT": f"{kill.point}:{kill.times}"}
        began = time.monotonic()
        flow, written = self._start(armed)
        struck = self._strike(flow, written, kill)
        self._judge(flow, written, began, kill.point if struck else None)
        if not struck:
            self._plan.missed(kill)

    def _strike(self, flow: Fork, written: Path, kill: Kill) -> bool:
        """Kill it; whether that was as planned."""
        if kill.point is not None or kill.writing:
            self._until_written(flow, written)
        if kill.point is not None and flow.wait(PATIENCE_S):
            return True
        if kill.point is None and flow.wait(kill.seconds):
            raise AssertionError(f"{self.name}: it ended with {flow.code}\n{self._told()}")
        flow.send(signal.SIGKILL)
        assert flow.wait(STUCK_S), "a kill -9 did not end it"
        return kill.point is None

    def _until_written(self, flow: Fork, written: Path) -> None:
        deadline = time.monotonic() + STUCK_S
        while not notes.has_written(written) and not flow.wait(0.02):
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: it writes nothing\n{self._told()}")

    def _judge(self, flow: Fork, written: Path, began: float, point: Point | None) -> None:
        self._feeder.check()
        if flow.code != -signal.SIGKILL:
            raise AssertionError(f"{self.name}: it ended with {flow.code}\n{self._told()}")
        found = notes.read_notes(written)
        again = self.checker.ended(f"process {self._count}", found)
        acked = [write.acked for write in found.writes if write.acked is not None]
        reached = "writing" if acked else "recovering" if found.resumes else "starting"
        to_write = acked[0] - began if acked else None
        self.toll.lives.append(Life(point, reached, to_write, found.model_s, again))

    def _at_rest(self, store: MilvusStore) -> None:
        """Look at all rows while nobody writes; a last request may still have been under way."""
        if not store._client.has_collection(self.name):
            return
        who = f"after process {self._count}"
        for _ in range(10):
            began = time.monotonic()
            try:
                before = store.count(self.name)
                rows = look(store, self.name, None)
                count = store.count(self.name)
            except (RetriableError, FatalError):
                if self.checker.versions:
                    raise
                return  # killed while it made the collection
            if count == before:
                break
        self.checker.at_rest(who, rows, count, began)

    def _finish(self, store: MilvusStore) -> None:
        """One more start, to the end of what there is, and a clean stop."""
        flow, written = self._start({})
        wanted = {entity: state.lsn for entity, state in self.stream.truth.final().items()}
        deadline = time.monotonic() + STUCK_S
        while not flow.wait(0.1):
            there = store.scan(self.name, ["size"])
            if {row["id"]: row["size"] for row in there} == wanted:
                break
            if time.monotonic() > deadline:
                break  # the judge tells what is missing
        flow.send(signal.SIGTERM)
        assert flow.wait(STUCK_S), f"{self.name}: it does not stop\n{self._told()}"
        if flow.code != 0:
            raise AssertionError(f"{self.name}: it stopped with {flow.code}\n{self._told()}")
        self.checker.ended(f"process {self._count}", notes.read_notes(written))
        self._at_rest(store)
        self.checker.final(look(store, self.name, None))
        self._compare_vectors(store)

    def _compare_vectors(self, store: MilvusStore) -> None:
        embedder = TransformerEmbedder(EmbeddingSection(model=str(self._model), device="cpu"))
        rows = store._client.query(self.name, "", ["id", "text", "vector"])
        made = embedder.embed([row["text"] for row in rows])
        found = np.asarray([row["vector"] for row in rows], np.float32)
        off = np.abs(made - found).max(axis=1)
        self.checker.vectors({row["id"]: float(far) for row, far in zip(rows, off, strict=True)})

    def _told(self) -> str:
        """The end of what the process said."""
        log = self._directory / "flow.log"
        return log.read_text("utf-8", "replace")[-3_000:] if log.exists() else ""
