"""Formats of other change-data-capture tools, recognised only to say that they are not read."""

from typing import Any, NamedTuple


class ForeignFormat(NamedTuple):
    """A format that Rowvec does not read.

    Attributes:
        name: What it is called.
        needs: Fields that each of its messages has.
        hint: How to get messages that Rowvec reads.
    """

    name: str
    needs: frozenset[str]
    hint: str


_DEBEZIUM = "read the table with Debezium, and its topic instead of this one"


def _format(name: str, needs: str, hint: str = _DEBEZIUM) -> ForeignFormat:
    return ForeignFormat(name, frozenset(needs.split()), hint)


_FORMATS = (
    _format(
        "a CloudEvent",
        "specversion id type source",
        "set the connector's value.converter to JsonConverter, AvroConverter or ProtobufConverter",
    ),
    _format(
        "Canal's JSON",
        "isDdl database table type data",
        "where TiCDC writes it, set its protocol=debezium; else read the table with Debezium",
    ),
    _format("Maxwell's JSON", "database table type ts data"),
    _format(
        "TiCDC's simple protocol",
        "version database table type commitTs",
        "set protocol=debezium in TiCDC's sink-uri",
    ),
    _format("AWS DMS's JSON", "data metadata"),
    _format("Oracle GoldenGate's JSON", "op_type op_ts pos table"),
)

_TICDC_OPEN = ForeignFormat(
    "TiCDC's open protocol", frozenset(), "set protocol=debezium in TiCDC's sink-uri"
)

_FLINK = ForeignFormat(
    "Flink's debezium-json, which lacks `source` and with it the order of changes",
    frozenset(),
    "read the topic that Debezium itself writes",
)

_WITHOUT_CONNECTOR = ForeignFormat(
    "a message whose `source` names no connector",
    frozenset(),
    'if something else than Debezium writes such envelopes, say shape = "envelope" in the contract: '
    "then the fields of `source` order its changes, or else the Kafka offset alone",
)


def foreign_format(message: dict[str, Any]) -> ForeignFormat | None:
    """The format of a message that is neither Debezium's envelope nor marked as an unwrapped row."""
    names = message.keys()
    for each in _FORMATS:
        if each.needs <= names:
            return each
    if names and names <= {"u", "p", "d"}:
        return _TICDC_OPEN
    if "op" in names and names >= {"before", "after"}:
        return _WITHOUT_CONNECTOR if isinstance(message.get("source"), dict) else _FLINK
    return None
