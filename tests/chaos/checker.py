"""Checks what readers saw, and what processes wrote and committed, against what was produced.

Milvus is read with Strong consistency, so a read that begins after another read has ended, or after a
write was acknowledged, must see that state or a newer one. So each row has a *floor* that only rises:
the newest version known to have been visible, or the first delete after that version. A read that
returns anything below the floor known when the read began is a violation.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from operators.changes.version import offset_of
from tests.chaos.notes import Notes, Resume, Write
from tests.chaos.stream import PARTITIONS, Truth, entity_of, row_of
from tests.integration.running import position_of

EVIDENCE = 25
"""How many violations of each invariant are kept with their text; all are counted."""

TOLERANCE = 1e-3
"""Largest allowed difference between a stored vector and a new embedding of its text.

Not 0, because the two were computed in batches with different padding.
"""


INVARIANTS = {
    "I1": "at the end a full scan equals the table",
    "I2": "every committed change is applied or superseded",
    "I3": "no deleted row comes back",
    "I4": "no visible version falls",
    "I5": "`count(*)` is the number of distinct ids",
    "I6": "at the end each vector is that of its text",
    "I7": "what may have been written before a kill is gathered after it",
    "text": "text and columns belong to the version",
}


class Sight(NamedTuple):
    """An entity as a reader received it."""

    entity: str
    version: str
    text: str
    size: int


class Violation(NamedTuple):
    """One broken invariant.

    Attributes:
        invariant: One of `INVARIANTS`.
    """

    invariant: str
    entity: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.entity} {self.what}"


class _Floor(NamedTuple):
    """The floor of a row: a read that begins after `known` must not see an older version."""

    lsn: int
    version: str
    deleted: bool
    known: float


class Replayed(NamedTuple):
    """What a process read and wrote again after an earlier process had written it.

    Attributes:
        rows: Rows written although the same or a newer version had been sent, and rows deleted again.
        records: Records between the resume offset and the newest one that was written before.
        limit: How many records the epoch at the resume offset could hold.
    """

    rows: int
    records: int
    limit: int


class Checker:
    """Checks one collection. Safe to share between threads.

    Args:
        truth: What was produced.

    Attributes:
        counts: Violations by invariant.
        violations: The first `EVIDENCE` violations of each invariant.
        versions: How many versions were seen.
        absences: How many times a row was found deleted.
        seen: By partition, the offset that the flow is known to have reached: after the newest version
            seen, or where a process resumed.
    """

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._lock = threading.Lock()
        self._floors: dict[str, _Floor] = {}
        self._at_rest: dict[str, int | None] | None = None
        self._next = [0] * PARTITIONS
        self._sent: dict[str, str] = {}
        self._highest = [-1] * PARTITIONS
        self.counts: dict[str, int] = {}
        self.violations: list[Violation] = []
        self._told: set[Violation] = set()
        self.versions = self.absences = 0
        self.seen = [0] * PARTITIONS

    def look(
        self,
        who: str,
        rows: Sequence[Sight],
        began: float,
        ended: float,
        asked: Iterable[str] | None = None,
    ) -> None:
        """Check one answer of Milvus.

        Args:
            who: Name of the reader, for the evidence.
            rows: All entities in the answer.
            began, ended: Start and end of the read, in seconds of a monotonic clock.
            asked: The entities that were asked for; None for all.
        """
        with self._lock:
            found: set[str] = set()
            for sight in rows:
                if sight.entity in found:
                    self._tell("I5", sight.entity, "was there twice in one answer", who)
                found.add(sight.entity)
                problem = self._truth.problem(*sight)
                if problem is not None:
                    self._tell("text", sight.entity, f"at {sight.version} has {problem}", who)
                    continue
                self._present(who, "was seen", sight.entity, sight.version, began, ended)
            for entity in self._floors if asked is None else asked:
                if entity not in found:
                    self._absent(who, entity, began, ended)

    def at_rest(self, who: str, rows: Sequence[Sight], count: int, began: float) -> None:
        """Check a full scan made while no process writes: every committed change must be in it.

        Args:
            who: Name of the reader.
            rows: All entities.
            count: Result of `count(*)`.
            began: Start of the read.
        """
        self.look(who, rows, began, began)
        with self._lock:
            distinct = len({sight.entity for sight in rows})
            if count != distinct:
                self._tell("I5", "count(*)", f"is {count}, and there are {distinct} ids", who)
            self._at_rest = {sight.entity: position_of(sight.version) for sight in rows}

    def ended(self, who: str, notes: Notes) -> Replayed:
        """Check what a process wrote from its start to its end; call it before the next `at_rest`.

        Returns:
            What the process wrote again.
        """
        with self._lock:
            starts = {resume.partition: max(resume.next, 0) for resume in notes.resumes}
            for resume in notes.resumes:
                self._resumed(who, resume, notes)
                self.seen[resume.partition] = max(self.seen[resume.partition], resume.next)
            again: set[str] = set()
            before = dict(self._sent)
            highest = list(self._highest)
            for write in notes.writes:
                self._wrote(who, write)
                for entity, version in write.rows:
                    if self._is_again(entity, version, before, starts, highest):
                        again.add(entity)
            limit = sum(resume.cap for resume in notes.resumes)
            records = sum(max(0, highest[p] + 1 - start) for p, start in starts.items())
            if len(again) > limit:
                self._tell("I7", f"{len(again)} rows", f"were written again by {who}, over {limit}")
            return Replayed(len(again), records, limit)

    def final(self, rows: Sequence[Sight]) -> None:
        """Check the last full scan, after the topic was drained: it must equal the table."""
        with self._lock:
            wanted = self._truth.final()
            there = {sight.entity: position_of(sight.version) for sight in rows}
            for entity, state in wanted.items():
                if entity not in there:
                    self._tell("I1", entity, f"is missing at the end, {state.lsn} expected")
                elif there[entity] != state.lsn:
                    self._tell("I1", entity, f"ends at {there[entity]}, {state.lsn} expected")
            for entity in there.keys() - wanted.keys():
                self._tell("I1", entity, f"ends at {there[entity]}, though it was deleted")

    def vectors(self, distances: Mapping[str, float]) -> None:
        """Check the distance of each stored vector, at the end, from a new embedding of its text."""
        with self._lock:
            for entity, distance in distances.items():
                if not distance < TOLERANCE:
                    self._tell("I6", entity, f"has a vector {distance:g} off that of its text")

    @property
    def total(self) -> int:
        """How many violations there are so far."""
        return sum(self.counts.values())

    def _tell(self, invariant: str, entity: str, what: str, who: str = "") -> None:
        """Record a violation, once even if many reads see it."""
        told = Violation(invariant, entity, what)
        if told in self._told:
            return
        self._told.add(told)
        self.counts[invariant] = self.counts.get(invariant, 0) + 1
        if self.counts[invariant] <= EVIDENCE:
            self.violations.append(told._replace(what=f"{what} ({who})" if who else what))

    def _present(
        self, who: str, how: str, entity: str, version: str, began: float, ended: float
    ) -> None:
        lsn = position_of(version)
        floor = self._floors.get(entity)
        if floor is not None:
            if version == floor.version and not floor.deleted:
                return
            if (floor.deleted and lsn <= floor.lsn) or (
                not floor.deleted and version < floor.version
            ):
                if floor.known <= began:
                    self._below(who, how, entity, version, floor)
                return
        self._floors[entity] = _Floor(lsn, version, False, ended)
        self.versions += 1
        partition = row_of(entity) % PARTITIONS
        offset = offset_of(version)  # type: ignore[arg-type]
        self.seen[partition] = max(self.seen[partition], offset + 1)

    def _below(self, who: str, how: str, entity: str, version: str, floor: _Floor) -> None:
        if floor.deleted:
            self._tell("I3", entity, f"{how} at {version}, deleted at {floor.lsn:x} before", who)
        else:
            self._tell("I4", entity, f"{how} at {version}, {floor.version} before", who)

    def _absent(self, who: str, entity: str, began: float, ended: float) -> None:
        floor = self._floors.get(entity)
        if floor is None or floor.deleted or floor.known > began:
            return
        delete = self._truth.next_delete(row_of(entity), floor.lsn)
        if delete is None:
            what = f"is gone, {floor.version} before, and no delete since"
            self._tell("I2", entity, what, who)
            return
        self._floors[entity] = _Floor(delete, "", True, ended)
        self.absences += 1

    def _wrote(self, who: str, write: Write) -> None:
        """Use a write like a read if it was acknowledged; otherwise it may not have been applied."""
        ended = write.began if write.acked is None else write.acked
        for entity, version in write.rows:
            before = self._sent.get(entity)
            self._sent[entity] = version if version else f"-{before or ''}".replace("--", "-")
            if write.delete:
                if write.acked is not None:
                    self._absent(who, entity, write.began, ended)
                continue
            partition, offset = row_of(entity) % PARTITIONS, offset_of(version)  # type: ignore[arg-type]
            self._highest[partition] = max(self._highest[partition], offset)
            floor = self._floors.get(entity)
            if write.acked is not None:
                self._present(who, "was written", entity, version, write.began, ended)
            elif (
                floor is not None
                and not floor.deleted
                and floor.known <= write.began
                and version < floor.version
            ):
                self._below(who, "was sent", entity, version, floor)

    def _is_again(
        self,
        entity: str,
        version: str,
        before: Mapping[str, str],
        starts: Mapping[int, int],
        highest: Sequence[int],
    ) -> bool:
        sent = before.get(entity)
        if sent is None:
            return False
        if version:
            return version <= sent.removeprefix("-")
        # A delete has no version. It is a repeat if the replayed offsets hold a delete of the row.
        row = row_of(entity)
        partition = row % PARTITIONS
        return sent.startswith("-") and self._truth.deleted_between(
            row, starts.get(partition, 0), highest[partition] + 1
        )

    def _resumed(self, who: str, resume: Resume, notes: Notes) -> None:
        """Check a resume offset: every change before it must have been in the last scan at rest.

        Except for changes in the recovery files, whose window was still open. Only a process that has
        written is known to have loaded all recovery files, so nothing is checked for the others.
        """
        partition, next_, cap = resume
        start = max(next_, 0)
        if start < self._next[partition]:
            what = f"went on at {start}, {self._next[partition]} before"
            self._tell("I2", f"partition {partition}", what, who)
            return
        if self._highest[partition] >= start + cap:
            what = f"was written to {self._highest[partition]}, {cap} from {start} can be gathered"
            self._tell("I7", f"partition {partition}", what, who)
        if not notes.writes or self._at_rest is None:
            return
        changed: dict[str, int] = {}
        for row, lsn in self._truth.of(partition, self._next[partition], start):
            entity = entity_of(row)
            changed[entity] = max(changed.get(entity, 0), lsn)
        self._next[partition] = start
        for entity, lsn in changed.items():
            pending = notes.pending.get(entity)
            if pending is None or position_of(pending) < lsn:
                self._is_applied(who, entity, lsn, self._at_rest.get(entity))

    def _is_applied(self, who: str, entity: str, lsn: int, there: int | None) -> None:
        if there is None:
            deleted = self._truth.is_delete(lsn) or self._truth.next_delete(row_of(entity), lsn)
            if not deleted:
                self._tell("I2", entity, f"is not there, but {lsn:x} is committed", who)
        elif there < lsn:
            self._tell("I2", entity, f"was at {there:x}, but {lsn:x} is committed", who)
