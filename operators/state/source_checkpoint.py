"""What the source keeps of a partition in the recovery files."""

from typing import TypeAlias

STATE_FORMAT = 2

SourceState: TypeAlias = tuple[int, int, int, int, int | None, str, int]
"""(STATE_FORMAT, next offset, records and bytes that an epoch from there may hold, digest of the record
before that offset, and the ledger's stamp: see `operators.ownership.ledger.Stamp`)."""
