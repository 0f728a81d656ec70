"""The attack on one flow: start it, kill it, read Milvus, check, start it again."""

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
"""Most rows that a table holds: few, so that each changes often and a full scan is quick."""

MAX_EPOCH_RECORDS = 2_000

PATIENCE_S = 5.0
"""How long a process may take from its first write to its crash point; then it is killed anyway."""

STUCK_S = 60.0
"""A process that has not written within this time counts as stuck."""


class Life(NamedTuple):
    """One process, from its start to its kill.

    Attributes:
        point: The crash point where it was killed; None if it was killed at a random moment.
        reached: The phase it was killed in: "starting", "recovering" (its source had resumed, nothing
            was written) or "writing".
        to_write_s: Seconds from its start to its first acknowledged write; None without one.
        model_s: How many of these seconds the loading of the model took.
        again: What it wrote that an earlier process had already written.
    """

    point: Point | None
    reached: str
    to_write_s: float | None
    model_s: float
    again: Replayed


@dataclass(slots=True)
class Toll:
    """The figures of one attack.

    Attributes:
        looks, scans: How many times the hot rows, and all rows, were read.
    """

    lives: list[Life] = field(default_factory=list)
    looks: int = 0
    scans: int = 0


class Attack:
    """The attack on one flow, which has its own topic, collection and recovery directory.

    Args:
        directory: For this attack alone; its name is also that of topic and collection.
        zygote: Starts the processes.
        broker, milvus, model: What the flow works with.
        seed: Seed of its stream of changes.
        plan: The kills, shared with the other attacks.
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
        # Small windows: an old version that is visible for a moment stays long enough to be read.
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
        """Kill until the plan is used up, then let the flow drain its topic and stop.

        Raises:
            AssertionError: A process ended by itself, or never wrote.
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

    def _start(self, kill_at: tuple[Point, int] | None = None) -> tuple[Fork, Path]:
        self._count += 1
        written = self._directory / "notes.json"
        written.unlink(missing_ok=True)
        output = self._directory / "flow.log"
        with suppress(FileNotFoundError):
            output.rename(self._directory / "flow.log.1")
        order = Order(
            argv=("run", "-c", str(self._directory / "rowvec.toml")),
            env={"HOME": str(self._directory)},
            directory=str(self._directory),
            stdout=str(output),
            stderr=str(output),
            notes=str(written),
            collection=self.name,
            kill_at=kill_at,
        )
        return self._zygote.start(order), written

    def _one(self, kill: Kill) -> None:
        began = time.monotonic()
        flow, written = self._start(None if kill.point is None else (kill.point, kill.times))
        struck = self._strike(flow, written, kill)
        self._judge(flow, written, began, kill.point if struck else None)
        if not struck:
            self._plan.missed(kill)

    def _strike(self, flow: Fork, written: Path, kill: Kill) -> bool:
        """Kill the process; returns whether it was killed as planned."""
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
        """Read all rows while no process runs.

        Milvus may still be applying the last request of the killed process, so the read is repeated
        until the count is the same before and after it.
        """
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
                return  # The process was killed while it created the collection.
            if count == before:
                break
        self.checker.at_rest(who, rows, count, began)

    def _finish(self, store: MilvusStore) -> None:
        """Start the flow once more, let it drain the topic, and stop it with SIGTERM."""
        flow, written = self._start()
        wanted = {entity: state.lsn for entity, state in self.stream.truth.final().items()}
        deadline = time.monotonic() + STUCK_S
        while not flow.wait(0.1):
            there = store.scan(self.name, ["size"])
            if {row["id"]: row["size"] for row in there} == wanted:
                break
            if time.monotonic() > deadline:
                break  # The checker will report what is missing.
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
        """The last 3,000 characters of the process's log."""
        log = self._directory / "flow.log"
        return log.read_text("utf-8", "replace")[-3_000:] if log.exists() else ""
