"""Milvus as a vector store and as a ledger store; the only import of pymilvus.

Enter through `store`; it hands out the ledger as well. `client` sends the requests, `schema` says
what fields a collection has, `rows` checks and converts entities, `errors` says what an error of
Milvus means. May import: store, changes, contract, errors.
"""

__all__ = ["store"]
