"""Reading partitions, asking brokers, and sending dead letters.

`log` is the protocol that the source reads through, and has no client in it. May import: changes,
contract, telemetry.
"""

__all__ = ["config", "dead_letters", "log", "reader", "records", "topics"]
