"""Milvus as a vector store and as a ledger store; the only import of pymilvus.

`store` is the way in. May import: store, changes, contract.
"""

__all__ = ["store"]
