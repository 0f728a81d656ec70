"""A real change-data-capture stack from Python packages, for `rowvec demo` and the tests.

PostgreSQL, Kafka Connect with Debezium, a Kafka-protocol broker and (for tests) a Milvus server run as
child processes of the caller. They listen on loopback only and never outlive the caller. Linux only;
not for production data. Enter through `stack`. May import: operators.
"""

__all__ = [
    "broker",
    "corpus",
    "demo_tables",
    "milvus_lite",
    "packages",
    "process",
    "stack",
    "verify",
]
