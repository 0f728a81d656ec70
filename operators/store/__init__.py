"""The seam to a vector store: its protocol, and requests in rows rather than entities.

`operators.milvus` implements the protocol; tests have a fake. May import: changes, contract, retry,
telemetry.
"""

__all__ = ["protocol", "row_requests"]
