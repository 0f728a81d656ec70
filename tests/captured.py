"""The captured corpus: the messages that Debezium sent for given SQL, in several configurations.

`tests/data/debezium/README.md` says how each file was made. A variant is two files: its messages, one
per line, and the tables, the SQL of each case and the connector's settings.
"""

import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

DIRECTORY = Path(__file__).parent / "data" / "debezium"


class Message(NamedTuple):
    """One Kafka record, byte for byte.

    Attributes:
        timestamp: Kafka's timestamp, in milliseconds.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Case(NamedTuple):
    """One step of a variant's history, and the messages that it caused.

    Attributes:
        sql: The statements; one that begins with `A: ` or `B: ` ran in a session of that name.
        messages: Sorted by topic, partition and offset; may be empty.
    """

    name: str
    sql: tuple[str, ...]
    messages: tuple[Message, ...]


class Variant(NamedTuple):
    """The history, as Debezium sent it in one configuration.

    Attributes:
        about: Versions of server and Debezium, and how the messages were read.
        connector: Settings of the connector, without those of one machine.
        ddl: The statements before the first case.
        cases: The cases in the order in which they were run.
    """

    name: str
    about: Mapping[str, str]
    connector: Mapping[str, str]
    ddl: tuple[str, ...]
    cases: tuple[Case, ...]

    @property
    def database(self) -> str:
        """`pg` or `mysql`."""
        return self.name.partition("_")[0]


def variants(directory: Path = DIRECTORY) -> list[str]:
    """Names of all variants."""
    return sorted(path.name.removesuffix(".jsonl.xz") for path in directory.glob("*.jsonl.xz"))


@cache
def load(name: str, directory: Path = DIRECTORY) -> Variant:
    """Load a variant with all its messages."""
    meta = json.loads((directory / f"{name}.json").read_text("utf-8"))
    messages: dict[str, list[Message]] = {case: [] for case in meta["sql"]}
    with lzma.open(directory / f"{name}.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            messages[record.pop("case")].append(_message(record))
    cases = tuple(
        Case(case, tuple(sql), tuple(messages[case])) for case, sql in meta["sql"].items()
    )
    return Variant(name, meta["about"], meta["connector"], tuple(meta["ddl"]), cases)


def cases(name: str) -> Sequence[Case]:
    """The cases of a variant, in order."""
    return load(name).cases


def save(variant: Variant, directory: Path) -> None:
    """Write a variant's two files; the same variant gives the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    meta = {
        "about": variant.about,
        "connector": variant.connector,
        "ddl": variant.ddl,
        "sql": {case.name: case.sql for case in variant.cases},
    }
    text = json.dumps(meta, indent=1, ensure_ascii=False) + "\n"
    (directory / f"{variant.name}.json").write_text(text, "utf-8")
    with lzma.open(
        directory / f"{variant.name}.jsonl.xz", "wt", encoding="utf-8", preset=9
    ) as lines:
        for case in variant.cases:
            for line in _lines(case.name, case.messages):
                lines.write(line)


def _message(record: dict[str, Any]) -> Message:
    record["headers"] = tuple((name, _bytes(value)) for name, value in record["headers"])
    return Message(**{**record, "key": _bytes(record["key"]), "value": _bytes(record["value"])})


def _lines(case: str, messages: Iterable[Message]) -> Iterable[str]:
    for message in sorted(messages, key=lambda m: (m.topic, m.partition, m.offset)):
        record = {
            "case": case,
            **message._asdict(),
            "key": _text(message.key),
            "value": _text(message.value),
            "headers": [(name, _text(value)) for name, value in message.headers],
        }
        yield json.dumps(record, ensure_ascii=False) + "\n"


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _text(raw: bytes | None) -> str | None:
    # JSON is UTF-8; other bytes must raise here instead of being replaced.
    return None if raw is None else raw.decode("utf-8", "strict")
