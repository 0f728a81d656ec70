"""The same parts as in the integration tests: a broker, Milvus, a model of no size, and forks."""

from tests.integration.conftest import broker, forks, milvus, tiny_model

__all__ = ["broker", "forks", "milvus", "tiny_model"]
