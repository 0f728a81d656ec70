"""Captures what transforms make of deletes, in every mode: `python -m tests.capture.unwrap_modes FILE`.

Writes one message a line, as `tests/data/debezium/README.md` describes, and needs some minutes.
"""

import json
import lzma
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from flows.embedded.stack import Stack

_UNWRAP = {"transforms": "t", "transforms.t.type": "io.debezium.transforms.ExtractNewRecordState"}

MODES: Mapping[str, Mapping[str, str]] = {
    **{
        mode: {
            **_UNWRAP,
            "transforms.t.add.fields": "op,lsn,source.sequence",
            "transforms.t.delete.tombstone.handling.mode": mode,
        }
        for mode in (
            "drop",
            "tombstone",
            "rewrite",
            "rewrite-with-tombstone",
            "delete-to-tombstone",
        )
    },
    "default": _UNWRAP,
    "extract-field": {
        "transforms": "t",
        "transforms.t.type": "org.apache.kafka.connect.transforms.ExtractField$Value",
        "transforms.t.field": "after",
    },
}
"""What is captured → settings of the connector. The converters' are the defaults."""

_ROWS = "insert into docs values (1,'one',null,'a','d'),(2,'two','x',null,null)"

_CHANGES = (
    "truncate docs",
    _ROWS,
    "update docs set title='uno' where id=1",
    "update docs set id=3 where id=2",
    "delete from docs where id=1",
    "insert into docs values (9,'end',null,null,null)",
)

_QUIET_S = 2.0


def capture() -> Iterator[dict[str, Any]]:
    """The messages of each mode, without and with schemas, in the order of their topic."""
    with Stack() as stack, closing(stack.postgres.connect()) as sql:
        sql.execute(
            "create table docs (id int primary key, title text not null, note text default 'n/a', "
            "after text, op text)"
        )
        for mode, settings in MODES.items():
            for schemas in (False, True):
                sql.execute("delete from docs")
                sql.execute(_ROWS)
                prefix = f"{mode.replace('-', '_')}_{'on' if schemas else 'off'}"
                worker = stack.start_connect(
                    ["public.docs"],
                    topic_prefix=prefix,
                    partitions=1,
                    schemas_enable=schemas,
                    **{
                        "key.converter.replace.null.with.default": "true",
                        "value.converter.replace.null.with.default": "true",
                        **settings,
                    },
                )
                with closing(_consumer(stack, f"{prefix}.public.docs")) as consumer:
                    found = _read(consumer, 2)
                    for statement in _CHANGES:
                        sql.execute(statement.encode())
                    found += _read(consumer, 5)
                worker.stop()
                for message in found:
                    yield {"mode": mode, "schemas": schemas, **message}


def _consumer(stack: Stack, topic: str) -> Consumer:
    stack.broker.create_topic(topic, 1)
    consumer = Consumer({"bootstrap.servers": stack.broker.bootstrap_servers, "group.id": topic})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    return consumer


def _read(consumer: Consumer, least: int) -> list[dict[str, Any]]:
    """At least so many messages, and all that come until none has come for a while."""
    found: list[dict[str, Any]] = []
    last = time.monotonic()
    while len(found) < least or time.monotonic() - last < _QUIET_S:
        message = consumer.poll(0.1)
        if message is None:
            continue
        assert message.error() is None, message.error()
        last = time.monotonic()
        headers = [(name, _text(value)) for name, value in message.headers() or ()]
        found.append(
            {
                "key": _text(message.key()),
                "value": _text(message.value()),
                "headers": [each for each in headers if "context" not in each[0]],
            }
        )
    return found


def _text(raw: bytes | str | None) -> str | None:
    return raw.decode() if isinstance(raw, bytes) else raw


if __name__ == "__main__":
    with lzma.open(Path(sys.argv[1]), "wt", encoding="utf-8", preset=9) as lines:
        for each in capture():
            lines.write(json.dumps(each, ensure_ascii=False) + "\n")
