"""Any bytes in a topic, through a whole flow: no exception but Rowvec's own, and no failed start.

A run draws a contract, with some of every optional part, and a topic of two partitions with damaged
messages. The real stages read them under the driver of `tests.simulation`, with crashes and restarts in
between, up to the rows that Milvus would get. Afterwards every record has been applied, ignored, or
become a dead letter.

    python -m tests.fuzz --inputs 100000 --seed 7
"""

import logging
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from flows.sync import rules_of
from operators.changes.row_key import RowKey
from operators.contract.table import UNAVAILABLE, TableSection
from operators.errors import FatalError, RecordError
from tests.changes import TOPIC, Log, contract
from tests.fuzz.messages import ODD, Damage, Registry, Sample, table_for, topics
from tests.simulation.script import Script
from tests.simulation.tables import Table

RECORDS = 100
"""Of one run."""

_ID = re.compile(rb'"id":[0-9]+')

_TEXT = re.compile(rb'":"([^"]*)"')

_VALUES: Sequence[Any] = (*(each for each in ODD if not isinstance(each, dict)), *Registry.TYPED)


class FuzzedDatabase:
    """A database that answers anything that PostgreSQL could: a row, none, or that it cannot be asked."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def select(
        self, table: TableSection, origin: tuple[str, str], row_key: RowKey, columns: Sequence[str]
    ) -> Mapping[str, Any] | None:
        """See `operators.toast.completer.Database`."""
        kind = self._draw.random()
        if kind < 0.1:
            return None
        if kind < 0.2:
            raise RecordError(subject="row", cause="its key names several rows")
        return {column: self._draw.choice(_VALUES) for column in columns}


class Run:
    """One drawn contract and topic; everything follows from the seed.

    Attributes:
        counts: Events of this run, by what happened.
    """

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.counts: Counter[str] = Counter()
        draw = self.draw
        self._fed = draw.choice(topics())
        whole = [s for s in self._fed if b'"after":{' in (s.value or b"")]
        section, types = table_for(draw.choice(whole or self._fed), draw)
        section["topic"] = TOPIC
        if draw.random() < 0.5:  # one that most rows fit
            types, section["encodings"] = None, {}
            section["drift"] = {"missing": "null", "retyped": "null"}
        if draw.random() < 0.3:
            section["chunks"] = {"max_tokens": 8, "overlap_tokens": draw.choice([0, 3])}
        if draw.random() < 0.1:
            section["format"] = draw.choice(["json", "avro", "protobuf"])
        self._framed = None if types is None else Registry(types)
        self._table = TableSection.model_validate(section)
        self.halts = "halt" in self._table.drift.model_dump().values()
        damage = Damage(draw.getrandbits(32), draw.choice([0.0, 0.2, 1.0]), draw.choice([1, 1, 4]))
        self._damage = damage
        # A snapshot read that a shuffled history puts behind a newer change stops the flow.
        self._reads = random.Random(f"reads {seed}").random() < 0.1
        self._logs = [Log([], written=0), Log([], written=0)]
        for _ in range(RECORDS):
            key, value, headers = self._record()
            # By the damaged key, so that the changes of a row are in one partition.
            log = self._logs[sum(key or b"") % 2]
            log.records.append((key, value, headers))

    def _record(self) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
        draw = self.draw
        fed: Sequence[Sample] = self._fed if draw.random() < 0.97 else draw.choice(topics())
        _, key, value, other = draw.choice(fed)
        if value is not None and not self._reads:
            value = value.replace(b'"op":"r"', b'"op":"c"')
        if draw.random() < 0.7:  # more rows than were captured
            row = b'"id":%d' % draw.randrange(30)
            key, value = key and _ID.sub(row, key), value and _ID.sub(row, value)
        if self._framed is not None and draw.random() < 0.7:
            key, value = key and b"\0" + key, value and b"\0" + value
        if value is not None and draw.random() < 0.15:
            value = self._without_a_text(value)
        if draw.random() < 0.3:
            value = self._damage.of(value)
        if draw.random() < 0.1:
            key = self._damage.of(key)
        if draw.random() < 0.05:
            value = None
        if draw.random() < 0.05:
            other = self._damage.of(key)
        return key, value, [] if other is None else [("__debezium.oldkey", other)]

    def _without_a_text(self, value: bytes) -> bytes:
        """The message with the placeholder of a left-out column in place of one text."""
        row = max(0, value.find(b'"after":{'))
        texts = list(_TEXT.finditer(value, row))
        if not texts:
            return value
        start, end = self.draw.choice(texts).span(1)
        return value[:start] + UNAVAILABLE.encode() + value[end:]

    def go(self) -> None:
        """Run the flow to the end of the topic, with crashes, and start it once more.

        Raises:
            AssertionError: A record is neither applied nor refused, or the flow does not come to rest.
            Exception: Any that a record has caused; only those of `operators.errors` may be caught.
        """
        draw = self.draw
        made = contract(masking={"hmac_key": "k" * 32}).model_copy(
            update={"tables": (self._table,)}
        )
        table = Table(self._table, made, rules_of(made, self._framed))
        database = FuzzedDatabase(draw) if draw.random() < 0.5 else None
        script = Script(
            self._logs,
            table,
            batch_size=draw.choice([1, 7, 50]),
            cap=draw.choice([20, 1_000]),
            lanes=draw.choice([1, 2]),
            database=database,
        )
        try:
            while any(log.end() < len(log.records) for log in self._logs):
                self._step(script)
            script.drain()
            script.crash()
            script.drain()
        except FatalError as error:
            # The contract says that drift stops the flow; and in a shuffled history the log goes back.
            if not (
                self.halts or re.search("log has gone back|comes from another log", error.cause)
            ):
                raise
            self.counts["halted"] += 1
        self._judge(script)

    def _step(self, script: Script) -> None:
        draw = self.draw
        for number, _ in enumerate(self._logs):
            script.append(number, draw.randrange(30))
            script.poll(number)
        if draw.random() < 0.8:
            script.tick()
        if draw.random() < 0.7:
            script.write()
        if draw.random() < 0.5:
            script.commit()
        if draw.random() < 0.2:
            script.crash()
            self.counts["crashed"] += 1

    def _judge(self, script: Script) -> None:
        stored = list(script.store.scan("c", ["rv_row_key", "rv_chunk", "rv_chunks"]))
        chunks: dict[str, list[tuple[int, int]]] = {}
        for row in stored:
            chunks.setdefault(row["rv_row_key"], []).append((row["rv_chunk"], row["rv_chunks"]))
        for key, found in chunks.items():
            numbers = sorted(number for number, _ in found)
            assert numbers == list(range(found[0][1])), f"{key} has the chunks {found}"
        for letter in script.letters.letters:
            assert letter.cause
            assert len(letter.cause) < 3_000
            if self._table.masks:
                assert letter.key is letter.value is None
        self.counts["stored"] += len(chunks)
        self.counts["dead letters"] += len(script.letters.letters)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log: every run would warn of hundreds of columns."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def fuzz(inputs: int, seed: int) -> Counter[str]:
    """Run so many records through flows.

    Raises:
        AssertionError: With the seed of the run that failed; its cause is the failure.
    """
    counts: Counter[str] = Counter()
    with quiet():
        for number in range(-(-inputs // RECORDS)):
            run = Run(seed + number)
            try:
                run.go()
            except Exception as error:
                again = f"python -m tests.fuzz --inputs {RECORDS} --seed {seed + number}"
                raise AssertionError(f"{type(error).__name__}: {error}\nAgain: {again}") from error
            counts.update(run.counts, inputs=RECORDS)
    return counts
