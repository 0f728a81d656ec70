"""Notices that a name of the contract stands for another collection than it did at the start.

Rows are written to a collection by its name. Somebody may drop the collection and make it anew, rename
it and give its name to another one, or move the alias that the contract names. Then the rows that
follow would be written to the other collection, or to one that readers no longer see, and nobody would
be told. So the lease thread looks after each renewal, and a flow whose collection is another one stops.
"""

from collections import deque
from collections.abc import Callable, Mapping

from operators.errors import FatalError, RetriableError
from operators.ownership.ledger_entries import differ
from operators.store.protocol import FindCollection, FoundCollection


class CollectionWatch:
    """What the names of the contract stood for at the start, and whether they still do.

    Threads: the main thread calls `begin` once, before anything is written; from then on the lease
    thread calls `look`.

    Args:
        find: Asks the store what a name stands for.
        budget_s: How long one look may go on; the next one continues where it ended.
        now: Seconds of any clock that is not set.
    """

    def __init__(self, find: FindCollection, budget_s: float, now: Callable[[], float]) -> None:
        self._find = find
        self._budget_s = budget_s
        self._now = now
        self._expected: deque[tuple[str, FoundCollection]] = deque()

    def begin(self, names: Mapping[str, str]) -> None:
        """Take what the names stand for now for what they must stand for.

        Args:
            names: The collections that are written to, by the names that the contract gives them.

        Raises:
            FatalError: A name stands for another collection already.
        """
        expected = {name: self._found(name, own_name) for name, own_name in names.items()}
        self._expected = deque(expected.items())

    def look(self) -> None:
        """Compare the names with what they stood for. If Milvus does not answer, the next look does it.

        Raises:
            FatalError: One stands for another collection, or for none.
        """
        began = self._now()
        for _ in range(len(self._expected)):
            name, expected = self._expected[0]
            try:
                found = self._found(name, expected.name)
            except RetriableError:
                return
            if differ(found.identity, expected.identity):  # guard: collection-exchanged
                raise FatalError(
                    subject=f"collection '{expected.name}'",
                    cause="is another one than at the start: it was dropped or renamed, and another "
                    "one has its name now",
                    hint="Start again: the start compares it with what was filled, and names the ways "
                    "on",
                )
            self._expected.rotate(-1)
            if self._now() - began > self._budget_s:
                return

    def _found(self, name: str, own_name: str) -> FoundCollection:
        found = self._find(name)
        if found is None:
            raise FatalError(
                subject=f"collection '{own_name}'",
                cause="is gone: it was dropped or renamed"
                + (f", or '{name}', its alias in the contract, was" if name != own_name else ""),
                hint="Give it its name back, or name it in the contract as it is called now",
            )
        if found.name != own_name:  # guard: alias-moved
            raise FatalError(
                subject=f"collection '{name}' of the contract",
                cause=f"is an alias that stands for '{found.name}' now; this flow writes to "
                f"'{own_name}'",
                hint="Move the alias back, or name the collection itself in the contract: it is what "
                "readers search that an alias is for",
            )
        return found
