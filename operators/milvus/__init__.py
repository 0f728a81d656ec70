"""Milvus as a vector store and as a ledger store; the only import of pymilvus.

Enter through `store`; it hands out the ledger as well (`ledger_store`). Requests about entities are in
`client`, those about collections in `collection_requests`, and what both need in `connection`. `schema`
says what fields a collection has, `filters` writes filter expressions, `rows` checks and converts
entities and `ledger_rows` entries, `errors` says what an error of Milvus means. `environment` keeps
pymilvus from changing the environment when it is imported.
May import: store, changes, contract, errors, printable.
"""

from operators.milvus.environment import keep_environment

with keep_environment():  # guard: no-dotenv
    import pymilvus as _  # noqa: F401

__all__ = ["store"]
