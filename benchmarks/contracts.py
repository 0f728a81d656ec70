"""The table that the benchmarks keep, and the contracts by which: settings are at their defaults."""

from pathlib import Path
from typing import Any

from benchmarks.envelopes import topic_of
from operators.contract.sections import Contract

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TABLE = "docs"
TOPIC = topic_of(TABLE)


def idle_contract(bootstrap_servers: str = "127.0.0.1:1") -> Contract:
    """For a flow whose model and store do nothing."""
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
    """For a flow that embeds and writes to Milvus.

    Args:
        bootstrap_servers: Of the broker.
        milvus: Its address, or the path of a Milvus Lite.
        recovery: The recovery directory.
        fetch_wait_ms: How long the embedded broker holds a fetch, as it does not answer when something
            comes: the one setting that is not the default.
        device: Where the model is.
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
