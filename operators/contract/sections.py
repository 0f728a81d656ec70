"""The contract: what to sync, and with what. Validated once; all problems are reported together.

The models are frozen and refuse unknown keys. Only `flows.settings` fills them: from TOML, the
environment and mounted secrets. `operators.contract.table` has the part about one table.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from operators.contract.addresses import brokers, milvus_uri, registry_urls
from operators.contract.table import Section, TableSection

MIN_HMAC_KEY_BYTES = 16


class KafkaSection(Section):
    """How to reach Kafka. `librdkafka` passes further options to the client, by their own names."""

    bootstrap_servers: Annotated[str, AfterValidator(brokers)] = Field(min_length=1)
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
    def _sasl_names_its_mechanism(self) -> Self:
        if self.security_protocol.startswith("SASL") and self.sasl_mechanism is None:
            raise ValueError(f"security_protocol {self.security_protocol} needs sasl_mechanism")
        return self


class MilvusSection(Section):
    """How to reach Milvus: a path for Milvus Lite, `http(s)://host:port` for a server."""

    uri: Annotated[str, AfterValidator(milvus_uri)] = Field(min_length=1)
    token: SecretStr | None = None
    database: str = ""
    ca_file: Path | None = None
    request_timeout_s: float = Field(default=30.0, gt=0)
    retry_for_s: float = Field(default=300.0, ge=0)
    lease_s: float = Field(default=90.0, gt=0)
    write_lanes: int = Field(default=4, ge=1, le=64)
    write_batch_rows: int = Field(default=500, ge=1, le=10_000)

    @model_validator(mode="after")
    def _lease_outlasts_requests(self) -> Self:
        if self.lease_s < 3 * self.request_timeout_s:
            raise ValueError(
                f"lease_s ({self.lease_s:g}) must be at least three times request_timeout_s "
                f"({self.request_timeout_s:g}): a request must end before its lease does"
            )
        return self


class EmbeddingSection(Section):
    """The model, by Hugging Face name or by path; `auto` takes the setting from the model's files.

    Attributes:
        revision: A commit of the hub, or its first digits.
        document_prompt: Text in front of every document, and of every chunk of one; None for the
            model's own, "" for none. Part of the model's identity.
        query_prompt: The same in front of every search query.
    """

    model: str = Field(min_length=1)
    revision: str | None = None
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    normalize: bool | Literal["auto"] = "auto"
    document_prompt: str | None = None
    query_prompt: str | None = None
    max_length: int | None = Field(default=None, ge=8)
    max_batch_tokens: int | None = Field(default=None, ge=64)
    cache_texts: int = Field(default=10_000, ge=0)


class RecoverySection(Section):
    """Where checkpoints are kept. They are pickles: whoever can write there can run code, so 0700."""

    directory: Path = Path(".rowvec/recovery")
    partitions: int = Field(default=8, ge=1, le=1024)
    epoch_interval_s: float = Field(default=1.0, gt=0)


class FlowSection(Section):
    """Windows, the version horizon, and how much one epoch may hold."""

    window_ms: int = Field(default=200, ge=1, le=60_000)
    window_max_rows: int = Field(default=4_096, ge=1)
    horizon_s: int = Field(default=3_600, ge=60)
    max_epoch_records: int = Field(default=100_000, ge=500)
    max_epoch_bytes: int = Field(default=64 * 2**20, ge=2**20)


class SchemaRegistrySection(Section):
    """The schema registry of Avro and Protobuf messages; it must have the API of Confluent's."""

    url: Annotated[str, AfterValidator(registry_urls)] = Field(min_length=1, pattern=r"^https?://")
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = None
    request_timeout_s: float = Field(default=10.0, gt=0)


class SourceSection(Section):
    """The source database, to read large values that Debezium left out; PostgreSQL only."""

    dsn: SecretStr
    statement_timeout_s: float = Field(default=5.0, gt=0)


class MaskingSection(Section):
    """What masks need: the key of `hmac`, and how long a pattern may search one value."""

    hmac_key: SecretStr | None = None
    pattern_timeout_ms: int = Field(default=100, ge=1, le=10_000)

    @model_validator(mode="after")
    def _key_is_long_enough(self) -> Self:
        key = self.hmac_key.get_secret_value() if self.hmac_key else None
        if key is not None and len(key.encode()) < MIN_HMAC_KEY_BYTES:
            raise ValueError(f"hmac_key must have at least {MIN_HMAC_KEY_BYTES} bytes")
        return self


class Contract(Section):
    """What to sync, and with what."""

    kafka: KafkaSection
    milvus: MilvusSection
    embedding: EmbeddingSection
    recovery: RecoverySection = RecoverySection()
    flow: FlowSection = FlowSection()
    schema_registry: SchemaRegistrySection | None = None
    source: SourceSection | None = None
    masking: MaskingSection = MaskingSection()
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

    @model_validator(mode="after")
    def _masks_have_their_key(self) -> Self:
        if self.masking.hmac_key is None:
            for table in self.tables:
                if any(mask.kind == "hmac" for mask in table.masks.values()):
                    raise ValueError(
                        f"tables: '{table.name}' masks by hmac, which needs hmac_key in [masking]; "
                        "best from the environment: ROWVEC_MASKING__HMAC_KEY"
                    )
        return self

    @model_validator(mode="after")
    def _schemas_have_a_registry(self) -> Self:
        if self.schema_registry is None:
            for table in self.tables:
                if table.format in ("avro", "protobuf"):
                    raise ValueError(
                        f"tables: '{table.name}' has format {table.format}, which needs url in "
                        "[schema_registry]"
                    )
        return self
