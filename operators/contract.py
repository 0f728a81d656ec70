"""The contract: which table becomes which collection, and how. Validated once, told whole.

The models are frozen and forbid unknown keys. `flows.settings` fills them from TOML, environment and
mounted secrets; nothing else does.
"""

import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

RESERVED_FIELDS = frozenset({"id", "vector", "text"})
"""Fields of every collection besides the provenance fields, which all start with `rv_`."""

PROVENANCE_PREFIX = "rv_"

MAX_VARCHAR_BYTES = 65_535
"""A Milvus VARCHAR field holds no more; the limit counts bytes of UTF-8."""

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)]

ColumnType = Literal["varchar", "int64", "int32", "double", "float", "bool", "json"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _template_columns(template: str) -> Iterator[str]:
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name or spec or conversion:
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ValueError(
                f"'{{{shown}}}' is not a plain column name; write {{column}}, and {{{{ }}}} for braces"
            )
        yield name


def _check_template(template: str) -> str:
    try:
        columns = list(_template_columns(template))
    except ValueError as error:
        raise ValueError(f"not a template: {error}") from None
    if not columns:
        raise ValueError('names no column; write the columns to embed in braces, like "{title}"')
    return template


class KafkaSection(_Section):
    """How to reach Kafka; `librdkafka` takes any further option of the client by its own name."""

    bootstrap_servers: str = Field(min_length=1)
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: SecretStr | None = None
    dead_letter_topic: str = "rowvec.dead-letters"
    source_batch_size: int = Field(default=1_000, ge=1, le=100_000)
    librdkafka: dict[str, str | int | bool] = Field(default={}, repr=False)  # may hold a password

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> Self:
        if self.security_protocol.startswith("SASL") and self.sasl_mechanism is None:
            raise ValueError(f"security_protocol {self.security_protocol} needs sasl_mechanism")
        return self


class MilvusSection(_Section):
    """How to reach Milvus: a path for Milvus Lite, `http(s)://host:port` for a server."""

    uri: str = Field(min_length=1)
    token: SecretStr | None = None
    database: str = ""
    ca_file: Path | None = None
    request_timeout_s: float = Field(default=30.0, gt=0)
    retry_for_s: float = Field(default=300.0, ge=0)
    write_lanes: int = Field(default=4, ge=1, le=64)
    write_batch_rows: int = Field(default=500, ge=1, le=10_000)


class EmbeddingSection(_Section):
    """The model, by Hugging Face name or by path; `auto` is settled by the model's own files."""

    model: str = Field(min_length=1)
    revision: str | None = None
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    normalize: bool | Literal["auto"] = "auto"
    max_length: int | None = Field(default=None, ge=8)
    max_batch_tokens: int | None = Field(default=None, ge=64)


class RecoverySection(_Section):
    """Where the checkpoints live. Whoever can write there can run code: keep it 0700."""

    directory: Path = Path(".rowvec/recovery")
    partitions: int = Field(default=8, ge=1, le=1024)
    epoch_interval_s: float = Field(default=1.0, gt=0)


class FlowSection(_Section):
    """Windows, the version horizon, and how much one epoch may hold."""

    window_ms: int = Field(default=200, ge=1, le=60_000)
    window_max_rows: int = Field(default=4_096, ge=1)
    horizon_s: int = Field(default=3_600, ge=60)
    max_epoch_records: int = Field(default=100_000, ge=500)
    max_epoch_bytes: int = Field(default=64 * 2**20, ge=2**20)


class ColumnSpec(_Section):
    """A column that is mirrored into a typed scalar field; `field` renames it."""

    type: ColumnType
    max_length: int = Field(default=4_096, ge=1, le=MAX_VARCHAR_BYTES)
    field: Identifier | None = None


def _column_spec(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class TableSection(_Section):
    """One table, its topic, and the collection that is kept equal to it."""

    topic: str = Field(min_length=1, max_length=249)
    collection: Identifier
    key: tuple[str, ...] = Field(min_length=1)
    text: Annotated[str, AfterValidator(_check_template)]
    columns: dict[str, Annotated[ColumnSpec, BeforeValidator(_column_spec)]] = {}
    name: str = ""
    metric: Literal["COSINE", "IP", "L2"] = "COSINE"
    generation: int = Field(default=0, ge=0, le=0xFFFF)

    @model_validator(mode="before")
    @classmethod
    def _name_from_topic(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name") and isinstance(data.get("topic"), str):
            return {**data, "name": data["topic"].rsplit(".", 1)[-1]}
        return data

    @field_validator("key")
    @classmethod
    def _key_is_distinct(cls, key: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(key)) != len(key):
            raise ValueError("names a column twice")
        return key

    @model_validator(mode="after")
    def _fields_are_distinct(self) -> Self:
        fields = Counter(self.fields().values())
        for field, count in fields.items():
            if field in RESERVED_FIELDS or field.startswith(PROVENANCE_PREFIX):
                raise ValueError(
                    f"columns: '{field}' is a field of Rowvec's own; rename it in the collection: "
                    f'{field} = {{ type = "…", field = "{self.name or "source"}_{field}" }}'
                )
            if count > 1:
                raise ValueError(f"columns: two columns share the field '{field}'")
        return self

    def fields(self) -> dict[str, str]:
        """The mirrored columns: column name → field name in the collection."""
        return {column: spec.field or column for column, spec in self.columns.items()}

    def template_columns(self) -> tuple[str, ...]:
        """The columns that the text template names, each once, in order."""
        return tuple(dict.fromkeys(_template_columns(self.text)))


class Contract(_Section):
    """What to sync, and with what."""

    kafka: KafkaSection
    milvus: MilvusSection
    embedding: EmbeddingSection
    recovery: RecoverySection = RecoverySection()
    flow: FlowSection = FlowSection()
    tables: tuple[TableSection, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _tables_are_distinct(self) -> Self:
        for what in ("topic", "name"):
            for value, count in Counter(getattr(table, what) for table in self.tables).items():
                if count > 1:
                    hint = "; give each its own `name`" if what == "name" else ""
                    raise ValueError(f"tables: {count} tables have the {what} '{value}'{hint}")
        shapes: dict[str, tuple[str, object]] = {}
        for table in self.tables:
            shape = (
                table.metric,
                sorted(
                    (field, table.columns[column].type, table.columns[column].max_length)
                    for column, field in table.fields().items()
                ),
            )
            if shapes.setdefault(table.collection, shape) != shape:
                raise ValueError(
                    f"tables: those that share the collection '{table.collection}' need the same "
                    "metric and columns"
                )
        return self
