"""The table and the contracts of the benchmarks; all settings but one have their defaults."""

from pathlib import Path
from typing import Any

from benchmarks.envelopes import topic_of
from operators.contract.sections import Contract

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TABLE = "docs"
TOPIC = topic_of(TABLE)


def idle_contract(bootstrap_servers: str = "127.0.0.1:1") -> Contract:
    """The contract of a flow whose model and store do nothing."""
    return Contract.model_validate(
        {
            "kafka": {"bootstrap_servers": bootstrap_servers},
            "milvus": {"uri": "nowhere"},
            "embedding": {"model": "none"},
            "tables": [_table("{name}\n{doc}")],
        }
    )


def real_contract(
    bootstrap_servers: str, milvus: str, recovery: Path, fetch_wait_ms: int, device: str = "cpu"
) -> Contract:
    """The contract of a flow that embeds and writes to Milvus.

    Args:
        bootstrap_servers: Addresses of the broker.
        milvus: Address of Milvus, or the path of a Milvus Lite.
        recovery: The recovery directory.
        fetch_wait_ms: The one setting that is not the default. The embedded broker holds every fetch
            for this long, because it does not answer early when records arrive.
        device: Device of the model.
    """
    return Contract.model_validate(
        {
            "kafka": {
                "bootstrap_servers": bootstrap_servers,
                "librdkafka": {"fetch.wait.max.ms": fetch_wait_ms},
            },
            "milvus": {"uri": milvus},
            "embedding": {"model": MODEL, "device": device},
            "recovery": {"directory": recovery},
            "tables": [_table("{doc}")],
        }
    )


def _table(text: str) -> dict[str, Any]:
    return {
        "topic": TOPIC,
        "collection": TABLE,
        "key": ["id"],
        "text": text,
        "columns": {"kind": "varchar", "size": "int64"},
    }
