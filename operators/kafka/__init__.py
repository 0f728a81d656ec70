"""Reads partitions, asks brokers, and sends dead letters.

`log_reader` is the protocol that the source reads through; it imports no client. May import: changes,
contract, telemetry.
"""

__all__ = ["config", "dead_letters", "log_reader", "reader", "records", "topics"]
