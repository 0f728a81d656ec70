"""The fixtures of the integration tests: a broker, Milvus, a tiny model, and the zygote."""

from tests.integration.conftest import broker, forks, milvus, tiny_model

__all__ = ["broker", "forks", "milvus", "tiny_model"]
