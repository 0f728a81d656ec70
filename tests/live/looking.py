"""A poller that reads the collections during the run, and the check of what it saw.

Rowvec does not promise that every state of a row becomes visible: of several changes the poller may
see only the last. But the states that it sees of a row must be committed states, in commit order: no
older one after a newer one, nothing from a rolled-back transaction, and no state from before a delete
after the row was seen to be gone.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, NamedTuple, Self

from operators.changes.text_hash import text_hash
from operators.changes.version import same_position
from operators.milvus.store import MilvusStore
from tests.integration.running import open_store
from tests.live.changes import History, State
from tests.live.tables import REV, TABLES, Table

_TEXT_EVERY = 5
"""Every n-th read of a collection reads the texts too, and this is n."""


class Seen(NamedTuple):
    """A row as the poller read it."""

    version: str
    rev: int
    digest: str


class Poller:
    """Reads one collection after the other, whole, with Strong consistency.

    Args:
        uri: Address of Milvus.
        share: The share of the time in which it may keep Milvus busy.

    Attributes:
        looks: How many times it read a collection.
        states: How many states it saw.
        seen: Row key → the states of the row in the order of the reads, without repetitions; None:
            the row was absent.
        faults: What is wrong without knowing the history: a version that fell, a text that does not
            match its hash.
    """

    def __init__(self, uri: str, *, share: float = 0.25) -> None:
        self.looks = self.states = 0
        self.seen: dict[str, list[Seen | None]] = {}
        self.faults: list[str] = []
        self._uri = uri
        self._share = share
        self._versions: dict[str, str] = {}
        self._there: dict[str, set[str]] = {table.name: set() for table in TABLES}
        self._ended = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if self._failed is not None and error is None:
            raise self._failed

    def stop(self) -> None:
        """Stop after one more read of each collection."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with closing(open_store(self._uri)) as store:
                for table in TABLES:
                    while not store._client.has_collection(table.collection):
                        if self._ended.wait(0.1):
                            return
                turn = 0
                while True:
                    ended = self._ended.is_set()
                    for table in TABLES:
                        started = time.monotonic()
                        self._look(store, table, texts=turn % _TEXT_EVERY == 0)
                        took = time.monotonic() - started
                        if not ended:
                            self._ended.wait(took * (1 / self._share - 1))
                    if ended:
                        return
                    turn += 1
        except BaseException as error:
            self._failed = error

    def _look(self, store: MilvusStore, table: Table, *, texts: bool) -> None:
        fields = ["id", "rv_row_key", "rv_chunk", "rv_version", "rv_text_hash", REV]
        if texts and "chunks" not in table.contract:
            fields.append("text")
        # One query, so that all entities are of the same moment.
        entities = store._client.query(table.collection, "", fields)
        now: set[str] = set()
        for entity in entities:
            id_, version = entity["id"], entity["rv_version"]
            before = self._versions.get(id_, "")
            # Without a key, a change that is sent again may come on another partition, with any offset.
            if version < before and not same_position(version, before):
                self.faults.append(f"{id_}: version {version} after {before}")
            self._versions[id_] = version
            if "text" in entity and text_hash(entity["text"]) != entity["rv_text_hash"]:
                self.faults.append(f"{id_}: its digest is not of its text")
            if entity["rv_chunk"] == 0:
                now.add(entity["rv_row_key"])
                self._note(entity)
        for key in self._there[table.name] - now:
            self.seen[key].append(None)
        self._there[table.name] = now
        self.looks += 1

    def _note(self, entity: Mapping[str, Any]) -> None:
        one = Seen(entity["rv_version"], entity[REV], entity["rv_text_hash"])
        seen = self.seen.setdefault(entity["rv_row_key"], [])
        if not seen or seen[-1] != one:
            if seen and seen[-1] is None and len(seen) > 1:
                before = seen[-2]
                assert before is not None
                if one.version <= before.version or same_position(one.version, before.version):
                    self.faults.append(
                        f"{entity['rv_row_key']}: came back with version {one.version}, "
                        f"which was {before.version} before it went"
                    )
            seen.append(one)
            self.states += 1


class Judgement(NamedTuple):
    """The result of the check.

    Attributes:
        faults: Violations.
        ahead: How many texts hold a large value of a later change. This is allowed where Debezium
            left the value out and it was read from the database.
        excused: How many faults belong to rows that have a dead letter.
    """

    faults: list[str]
    ahead: int
    excused: int


def judge(
    history: History,
    seen: Mapping[str, Sequence[Seen | None]],
    *,
    reselects: bool,
    dead: Collection[str] = (),
) -> Judgement:
    """Compare the states seen of each row with its committed states, in order.

    Args:
        history: The committed states.
        seen: The states that the poller saw.
        reselects: Whether Rowvec asked the database for values that Debezium left out.
        dead: Row keys with a change that became a dead letter.
    """
    faults: list[str] = []
    ahead = excused = 0
    for key, looks in seen.items():
        found, later = _judged(history.get(key, []), looks)
        if not reselects:
            found += later
        ahead += len(later)
        if key in dead:
            excused += len(found)
        else:
            faults += [f"{key}: {fault}" for fault in found]
    return Judgement(faults, ahead, excused)


def _judged(states: Sequence[State], looks: Sequence[Seen | None]) -> tuple[list[str], list[str]]:
    """Faults, and texts with a large value of a later change."""
    places = {state.rev: place for place, state in enumerate(states) if state.digest is not None}
    gone = [place for place, state in enumerate(states) if state.digest is None]
    faults: list[str] = []
    ahead: list[str] = []
    place = 0
    for number, look in enumerate(looks):
        if look is None:
            next_ = bisect_left(gone, place)
            if next_ == len(gone):
                faults.append(f"look {number}: it was not there, though nothing removed it")
            else:
                place = gone[next_]
            continue
        there = places.get(look.rev)
        if there is None:
            faults.append(f"look {number}: change {look.rev} was never committed")
            continue
        if there < place:
            faults.append(f"look {number}: change {look.rev} is older than what was seen before")
        place = max(place, there)
        if look.digest != states[there].digest:
            fault = f"look {number}: its text is not that of change {look.rev}"
            (ahead if _is_ahead(states[there:], look) else faults).append(fault)
    return faults, ahead


def _is_ahead(states: Sequence[State], look: Seen) -> bool:
    """Whether the text is that of the first state, except for a large value of a later state."""
    table, row = states[0].table, states[0].row
    assert row is not None
    later = (state.row[table.large] for state in states if state.row and table.large)
    texts = (table.text({**row, table.large: value}) for value in later)
    return any(text is not None and text_hash(text) == look.digest for text in texts)
