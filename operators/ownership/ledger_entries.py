"""An entry of the ledger: what one process has written down about one collection."""

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
        identity: Identity of the collection that its records go to, as `VectorStore.identity` says it.
        sequence: Sequence of the ledger when the state was made; 0 if it was never written.
    """

    identity: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lease on a collection.

    Attributes:
        id: Random id of the process; "" after it released the lease.
        where: Process and host, for messages.
        lock: Identity of the lock of its recovery directory; "" if it has none.
        lease_s: Seconds for which it may write without renewing the lease.
    """

    id: str = ""
    where: str = ""
    lock: str = ""
    lease_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What one process has written down about one collection.

    Attributes:
        identity: Identity of the collection, as `VectorStore.identity` says it.
        history: Raised when a user accepts another collection: `seen` of entries with a lower history
            is ignored.
        sequence: Rises with every write of any process.
        tables: Digest of what the contract says about each table, by name.
        seen: By `topic/partition`, the offset up to which records are known to be committed.
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
    """By `topic/partition`, how often a user has accepted that its state is lost or older: entries with
    a lower count are ignored for that partition."""
    keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By table and key column, what its raw values mean; see `operators.codec.key_types`."""
    left: Mapping[str, str] = field(default_factory=dict)
    """As `tables`, of those that left the contract: their rows may still be in the collection."""

    def pack(self) -> str:
        """The entry as text for the ledger store."""
        holder = self.holder
        # Left out where nothing is known, as in the entries of the releases before.
        keys = {"keys": {name: dict(each) for name, each in self.keys.items()}} if self.keys else {}
        left = {"left": dict(self.left)} if self.left else {}
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
                **keys,
                **left,
            },
            separators=(",", ":"),
        )

    @classmethod
    def unpack(cls, name: str, body: str) -> "Entry":
        """The entry that `pack` made a text of.

        Raises:
            FatalError: The text has another format than this release reads.
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


def differ(one: str, other: str) -> bool:
    """Whether two identities of `VectorStore.identity` are those of two collections.

    A part that is missing in either of them says nothing: an entry of an older release has no id of
    the server, and a collection of an older release no random id.
    """
    parts = zip(one.split("@"), other.split("@"), strict=False)
    return any(part and other_part and part != other_part for part, other_part in parts)


def same(one: str, other: str) -> bool:
    """Whether two identities are those of one collection; False if they have no part to compare."""
    shared = any(all(parts) for parts in zip(one.split("@"), other.split("@"), strict=False))
    return shared and not differ(one, other)


def table_digest(table: TableSection, hmac_key: str | None) -> str:
    """Digest of all settings that decide what a table's rows look like in the collection.

    Left out are settings that change no stored row: how messages are read, and what is done about
    drift. The model and the chunk sizes are compared through the collection's spec instead. The HMAC
    key goes in as a digest of itself, so that the ledger does not reveal it.
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
