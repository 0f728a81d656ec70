"""Reads the dead letters: each once, with its status, filtered by what the user asks for."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import orjson

from operators.changes.events import KafkaPosition
from operators.contract.sections import Contract, KafkaSection
from operators.errors import FatalError
from operators.kafka.dead_letters import OVERTAKEN, REPLAYED, letter_records
from operators.kafka.records import KafkaRecord

logger = logging.getLogger(__name__)

Status: TypeAlias = Literal["open", "replayed", "overtaken"]


class Letter(NamedTuple):
    """A dead letter: one for each refused record, however often the letter was sent.

    Attributes:
        position: Position of the refused record.
        at: Position of the letter itself.
        key_digest, value_digest: Digests of the record's key and value, which are private and not kept
            here; None if the letter has none.
        when_ms: When it was written.
    """

    position: KafkaPosition
    at: KafkaPosition
    stage: str
    subject: str
    cause: str
    hint: str
    generation: int
    key_digest: bytes | None
    value_digest: bytes | None
    when_ms: int | None
    status: Status = "open"


def path_of(position: KafkaPosition) -> str:
    """A position as `topic/partition/offset`, the form that `--position` takes."""
    return f"{position.topic}/{position.partition}/{position.offset}"


def position_from(path: str) -> KafkaPosition:
    """The position in the form `topic/partition/offset`.

    Raises:
        FatalError: The text has another form.
    """
    topic, _, rest = path.partition("/")
    partition, _, offset = rest.partition("/")
    if not (topic and partition.isdecimal() and offset.isdecimal()):
        raise FatalError(
            subject=f"position '{path}'",
            cause="is not topic/partition/offset",
            hint="take it from `rowvec dead-letters list`",
        )
    return KafkaPosition(topic, int(partition), int(offset))


def read_letters(section: KafkaSection) -> list[Letter]:
    """All letters of the dead-letter topic, by position.

    Raises:
        FatalError: The topic cannot be read.
    """
    return letters_from(letter_records(section))


def letters_from(records: Iterable[KafkaRecord]) -> list[Letter]:
    """The letters among `records`, each once, with the status that later marks give them.

    A letter that comes after its mark is open again, because the flow has refused the record once more.
    """
    letters: dict[KafkaPosition, Letter] = {}
    foreign = 0
    for record in records:
        position = _position_in(record.key)
        if position is None:
            foreign += 1
            continue
        headers = dict(record.headers)
        mark: Status | None = (
            "replayed" if REPLAYED in headers else "overtaken" if OVERTAKEN in headers else None
        )
        if mark is None:
            letters[position] = _letter(position, record)
        elif position in letters:
            letters[position] = letters[position]._replace(status=mark)
    if foreign:
        logger.warning("%d records in the dead-letter topic are no dead letters", foreign)
    return [letters[position] for position in sorted(letters)]


def select(
    letters: Iterable[Letter],
    contract: Contract,
    *,
    tables: Sequence[str] = (),
    stages: Sequence[str] = (),
    positions: Sequence[KafkaPosition] = (),
) -> list[Letter]:
    """The letters that match all criteria; an empty criterion matches all.

    Raises:
        FatalError: The contract has no such table, or there is no letter of a position.
    """
    topics = {table.name: table.topic for table in contract.tables}
    for name in tables:
        if name not in topics:
            raise FatalError(
                subject=f"table '{name}'",
                cause="is not in the contract",
                hint=f"it has {', '.join(topics)}",
            )
    listed = list(letters)
    missing = set(positions) - {letter.position for letter in listed}
    if missing:
        raise FatalError(
            subject=f"position {', '.join(map(path_of, sorted(missing)))}",
            cause="there is no dead letter of it",
            hint="take it from `rowvec dead-letters list`",
        )
    wanted = {topics[name] for name in tables}
    return [
        letter
        for letter in listed
        if (not wanted or letter.position.topic in wanted)
        and (not stages or letter.stage in stages)
        and (not positions or letter.position in positions)
    ]


def private_digest(value: bytes | None) -> bytes | None:
    """Digest of a record's private key or value."""
    return None if value is None else hashlib.blake2b(value, digest_size=16).digest()


def _position_in(key: bytes | None) -> KafkaPosition | None:
    """The position in the key of a letter; None if it is not the key of a letter."""
    try:
        match orjson.loads(key or b""):
            case [str(topic), int(partition), int(offset)]:
                return KafkaPosition(topic, partition, offset)
    except orjson.JSONDecodeError:
        pass
    return None


def _letter(position: KafkaPosition, record: KafkaRecord) -> Letter:
    headers = {name: value or b"" for name, value in record.headers}

    def text(name: str) -> str:
        return headers.get(f"rowvec.{name}", b"").decode("utf-8", "replace")

    generation = text("generation")
    return Letter(
        position=position,
        at=record.position,
        stage=text("stage"),
        subject=text("subject"),
        cause=text("cause"),
        hint=text("hint"),
        generation=int(generation) if generation.isdecimal() else 0,
        key_digest=private_digest(headers.get("rowvec.key")),
        value_digest=private_digest(record.value),
        when_ms=record.timestamp_ms,
    )
