"""The interface to a vector store: its protocol, and requests in rows rather than entities.

`protocol` declares what a store and a ledger store must do; `operators.milvus` implements both, the
tests have fakes. `row_requests` is how a lane writes and reads whole rows. May import: changes,
contract, retry, telemetry, crash_points, errors.
"""

__all__ = ["protocol", "row_requests"]
