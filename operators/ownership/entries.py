"""What an entry of the ledger holds."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from operators.changes.shards import SHARDS
from operators.contract.table import TableSection
from operators.errors import FatalError

FORMAT = 1


class Stamp(NamedTuple):
    """What a partition's recovery state remembers of the ledger.

    Attributes:
        identity: Of the collection that its records go to; "" if that has none.
        sequence: Of the ledger when the state was made; 0 if it was never written.
    """

    identity: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lease on a collection.

    Attributes:
        id: Made up by the process; "" once it has let go.
        where: For people.
        lock: Identity of the lock of its recovery directory; "" if it has none.
        lease_s: How long it may go on without renewing.
    """

    id: str = ""
    where: str = ""
    lock: str = ""
    lease_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What one process tells of one collection.

    Attributes:
        identity: Of the collection.
        history: Raised whenever somebody has accepted a break: what was seen before no longer counts.
        sequence: Rises with every write of any process.
        tables: Digest of what the contract says of each table, by name.
        seen: Offset up to which records are known to be committed, by `topic/partition`.
    """

    identity: str
    process: int
    history: int = 0
    sequence: int = 0
    shards: int = SHARDS
    holder: Holder = Holder()
    tables: Mapping[str, str] = field(default_factory=dict)
    seen: Mapping[str, int] = field(default_factory=dict)
    breaks: Mapping[str, int] = field(default_factory=dict)
    """By `topic/partition`, how often somebody has accepted a break there: an entry that knows of fewer
    says nothing about it."""

    def pack(self) -> str:
        """As text for the store."""
        holder = self.holder
        return json.dumps(
            {
                "format": FORMAT,
                "identity": self.identity,
                "process": self.process,
                "history": self.history,
                "sequence": self.sequence,
                "shards": self.shards,
                "holder": [holder.id, holder.where, holder.lock, holder.lease_s],
                "tables": dict(self.tables),
                "seen": dict(self.seen),
                "breaks": dict(self.breaks),
            },
            separators=(",", ":"),
        )

    @classmethod
    def unpack(cls, name: str, body: str) -> "Entry":
        """The entry that `pack` saw.

        Raises:
            FatalError: It is not one of this release's.
        """
        try:
            values: dict[str, Any] = json.loads(body)
            if values.pop("format") != FORMAT:  # guard: other-format
                raise ValueError
            holder = Holder(*values.pop("holder"))
            return cls(holder=holder, **values)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise FatalError(
                subject=f"ledger entry {name}",
                cause=f"it is not in the format {FORMAT} of this release",
                hint="run the release that wrote it",
            ) from None


def digest_of(table: TableSection, hmac_key: str | None) -> str:
    """What decides what becomes of a table's rows, as a digest; keys only as digests of themselves.

    Not in it is what may change without making a row different: how messages are read, and what is
    done about drift. The model and how texts are cut are the collection's own.
    """
    decides = (
        "topic",
        "key",
        "key_from",
        "text",
        "columns",
        "defaults",
        "empty_text",
        "filter",
        "soft_delete",
        "masks",
        "encodings",
    )
    said: dict[str, Any] = table.model_dump(
        mode="json", include=set(decides), exclude_defaults=True
    )
    if hmac_key is not None and any(mask.kind == "hmac" for mask in table.masks.values()):
        secret = hashlib.pbkdf2_hmac("sha256", hmac_key.encode(), b"rowvec ledger", 10_000)
        said["hmac_key"] = secret.hex()[:16]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
