"""Protobuf schemas, as Connect's ProtobufConverter writes them: message classes made at run time.

Does not use a registry. Values come out as in Debezium's JSON, like those of
`operators.codec.registry.avro`. Protobuf keeps less of a column's type than Avro does: decimals,
dates, times and timestamps in Connect's encodings, but none of Debezium's own types.
"""

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from operators.codec.envelope import has_marks
from operators.codec.logical_types import Logical, logical_value
from operators.codec.registry.avro import base64_text, finite, shortest
from operators.errors import RecordError

Convert: TypeAlias = Callable[[Any], Any]

_BUILT_IN = ("google/protobuf/", "google/type/", "confluent/")
"""Prefixes of files that converters import but do not register."""

_WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)

_DECIMAL = Logical("variable decimal")


def _decimal(message: Any) -> Any:
    # Each value has its own scale; `logical_value` refuses one that is out of range.
    return logical_value(_DECIMAL, {"scale": message.scale, "value": message.value or b"\0"})


def _date(message: Any) -> int:
    # NumPy's calendar has all years; Python's ends at 9999.
    year = np.datetime64(message.year - 1970, "Y").astype("M8[M]")
    month = (year + np.timedelta64(message.month - 1, "M")).astype("M8[D]")
    return int((month + np.timedelta64(message.day - 1, "D")).astype(int))


def _time(message: Any) -> int:
    seconds: int = (message.hours * 60 + message.minutes) * 60 + message.seconds
    return seconds * _SECOND + int(message.nanos)


def _timestamp(message: Any) -> int:
    return int(message.seconds) * _SECOND + int(message.nanos)


_SECOND = 1_000_000_000

_MEANINGS: Mapping[str, tuple[Convert, Logical]] = {
    "confluent.type.Decimal": (_decimal, Logical("decimal")),
    "google.type.Date": (_date, Logical("date", "days")),
    "google.type.TimeOfDay": (_time, Logical("time", "ns")),
    "google.protobuf.Timestamp": (_timestamp, Logical("timestamp", "ns")),
}
"""Messages that stand for one value: how to make its raw value, and the logical type of that."""

_BY_TYPE = {
    FieldDescriptor.TYPE_BYTES: Logical("bytes", "base64"),
    FieldDescriptor.TYPE_FLOAT: Logical("float"),
    FieldDescriptor.TYPE_DOUBLE: Logical("float"),
}


class ProtobufType(NamedTuple):
    """What a schema says about one of its messages.

    Attributes:
        message: The class that parses it.
        convert: Makes a parsed message what JSON would have.
        columns: The logical types of the row's columns, as far as Protobuf keeps them.
    """

    message: type[Message]
    convert: Convert
    columns: Mapping[str, Logical]


def file_of(text: str, name: str) -> FileDescriptorProto:
    """The file in a registry's answer to `format=serialized`.

    Raises:
        ValueError: The answer is not base64; most likely it is the text of a .proto file.
        google.protobuf.message.DecodeError: It is base64, but not of a file descriptor.
    """
    file = FileDescriptorProto.FromString(b64decode(text, validate=True))
    file.name = name
    return file


def read_message_type(
    file: FileDescriptorProto, references: Sequence[FileDescriptorProto], index: Sequence[int]
) -> ProtobufType:
    """Make the class of a message; needed once for each.

    Args:
        file: The schema.
        references: What it imports, at any depth, by the names that it imports them by.
        index: Which message: its index at the top level, then its indexes among nested messages.

    Raises:
        RecordError: The message loses NULL: its converter writes 0 and "" instead.
        ValueError, IndexError, TypeError: The file has no such message, lacks an import, or is invalid.
    """
    name = _full_name(file, index)
    pool = _pool(file, {each.name: each for each in references})
    descriptor = pool.FindMessageTypeByName(name)
    row = _row(descriptor)
    columns = {field.name: _logical(field) for field in row.fields}
    return ProtobufType(
        GetMessageClass(descriptor),
        _Conversions().of(descriptor),
        {name: logical for name, logical in columns.items() if logical is not None},
    )


def _pool(
    file: FileDescriptorProto, references: Mapping[str, FileDescriptorProto]
) -> DescriptorPool:
    pool = DescriptorPool()
    added: set[str] = set()

    def add(file: FileDescriptorProto) -> None:
        if file.name not in added:
            added.add(file.name)
            for name in file.dependency:
                add(references[name] if name in references else _built_in(name))
            pool.AddSerializedFile(file.SerializeToString())

    add(file)
    return pool


def _built_in(name: str) -> FileDescriptorProto:
    if not name.startswith(_BUILT_IN):
        raise ValueError("the schema imports a file that it has no reference for")
    try:
        found = Default().FindFileByName(name)
    except KeyError:
        raise ValueError("the schema imports a file that is not known") from None
    file = FileDescriptorProto()
    found.CopyToProto(file)
    return file


def _full_name(file: FileDescriptorProto, index: Sequence[int]) -> str:
    messages: Sequence[DescriptorProto] = file.message_type
    names = [file.package] if file.package else []
    for place in index:
        if place < 0:
            raise IndexError("a message index is negative")
        names.append(messages[place].name)
        messages = messages[place].nested_type
    return ".".join(names)


def _row(descriptor: Descriptor) -> Descriptor:
    """The message that holds the columns: an envelope's `after`, or the value itself."""
    fields = descriptor.fields_by_name
    # As `codec.shapes` tells an envelope, as far as a schema can tell.
    if not all(name in fields for name in ("op", "source", "after")) or has_marks(fields):
        return descriptor
    after, source = fields["after"].message_type, fields["source"]
    if after is None or source.message_type is None:
        return descriptor
    _refuse_lost_nulls(source)
    return after


def _refuse_lost_nulls(source: FieldDescriptor) -> None:
    """Refuse a schema without NULL: `source.sequence` is nullable in every connector's real one."""
    sequence = source.message_type.fields_by_name.get("sequence")
    if sequence is not None and not sequence.has_presence:
        raise RecordError(
            subject="value",
            cause="its Protobuf schema has no NULL: the converter wrote 0 and empty text instead",
            hint="set the connector's key.converter.optional.for.nullables and "
            "value.converter.optional.for.nullables to true, and snapshot the table again",
        )


class _Conversions:
    """Builds the conversion of each message of one schema; a message may contain itself."""

    def __init__(self) -> None:
        self._made: dict[str, Convert] = {}

    def of(self, descriptor: Descriptor) -> Convert:
        """The conversion of messages of this type."""
        name = descriptor.full_name
        if name in _WRAPPERS:
            return self._field(descriptor.fields_by_name["value"])
        if name in _MEANINGS:
            return _MEANINGS[name][0]
        if name not in self._made:
            fields: list[tuple[str, Convert]] = []
            # Stored before its fields are known, because one of them may have this same type.
            self._made[name] = lambda message: {field: read(message) for field, read in fields}
            fields += [(field.name, self._field(field)) for field in descriptor.fields]
        return self._made[name]

    def _field(self, field: FieldDescriptor) -> Convert:
        """A function that reads a field from its message, converted."""
        name = field.name
        if field.is_repeated:
            return self._repeated(field)
        convert = self._value(field)
        if field.has_presence:
            return lambda message: (
                convert(getattr(message, name)) if message.HasField(name) else None
            )
        return lambda message: convert(getattr(message, name))

    def _repeated(self, field: FieldDescriptor) -> Convert:
        name, entry = field.name, field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            value = self._value(entry.fields_by_name["value"])
            # By items(), because reading an absent key by subscript would insert it.
            return lambda message: {
                str(key): value(each) for key, each in getattr(message, name).items()
            }
        if entry is not None and _is_entry(entry):
            key = self._field(entry.fields_by_name["key"])
            value = self._field(entry.fields_by_name["value"])
            return lambda message: {str(key(each)): value(each) for each in getattr(message, name)}
        convert = self._value(field)
        return lambda message: [convert(each) for each in getattr(message, name)]

    def _value(self, field: FieldDescriptor) -> Convert:
        """The conversion of one value of a field's type."""
        match field.type:
            case FieldDescriptor.TYPE_BYTES:
                return base64_text
            case FieldDescriptor.TYPE_FLOAT:
                return shortest
            case FieldDescriptor.TYPE_DOUBLE:
                return finite
            case FieldDescriptor.TYPE_ENUM:
                names = {n: value.name for n, value in field.enum_type.values_by_number.items()}
                return lambda number: names.get(number, number)
            case FieldDescriptor.TYPE_MESSAGE | FieldDescriptor.TYPE_GROUP:
                return self.of(field.message_type)
            case _:
                return lambda value: value


def _is_entry(message: Descriptor) -> bool:
    """Whether a repeated message is an entry of Connect's maps, which are not declared as maps."""
    return message.name.endswith("Entry") and {*message.fields_by_name} == {"key", "value"}


def _logical(field: FieldDescriptor) -> Logical | None:
    """The logical type of a field's raw values, as far as Protobuf keeps it."""
    message = field.message_type
    if message is None:
        found = _BY_TYPE.get(field.type)
    elif message.full_name in _WRAPPERS:
        return _logical(message.fields_by_name["value"])
    elif field.is_repeated and (message.GetOptions().map_entry or _is_entry(message)):
        value = _logical(message.fields_by_name["value"])
        return Logical("map", parts=(("", value),)) if value else None
    elif message.name == "VariableScaleDecimal":
        found = _DECIMAL
    else:
        found = _MEANINGS[message.full_name][1] if message.full_name in _MEANINGS else None
    return Logical("array", parts=(("", found),)) if found and field.is_repeated else found
