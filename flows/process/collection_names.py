"""What the contract's names of collections stand for: each is a collection's own name, or an alias.

An alias may be moved at any time, and two names may stand for one collection. So the flow asks once, at
its start, and from then on knows each collection by its own name only: the lease, the ledger and every
write go by that.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from operators.contract.sections import Contract
from operators.errors import FatalError
from operators.store.protocol import FindCollection


@dataclass(frozen=True, slots=True)
class CollectionNames:
    """The names at a start.

    Attributes:
        contract: The contract, with every collection by its own name.
        own_names: Own name of each collection, by the name that the user's contract gives it.
        identities: Identity of each collection that exists, by its own name.
    """

    contract: Contract
    own_names: Mapping[str, str]
    identities: Mapping[str, str]

    @classmethod
    def of(cls, contract: Contract, find: FindCollection) -> Self:
        """Ask what each name stands for; one that stands for nothing yet is its own.

        Raises:
            FatalError: Two names stand for one collection.
        """
        own_names: dict[str, str] = {}
        identities: dict[str, str] = {}
        for name in dict.fromkeys(table.collection for table in contract.tables):
            found = find(name)
            own_names[name] = name if found is None else found.name
            if found is not None:
                identities[found.name] = found.identity
        by_own_name: dict[str, str] = {}
        for name, own_name in own_names.items():
            other = by_own_name.setdefault(own_name, name)
            if other != name:  # guard: one-name-for-one-collection
                raise FatalError(
                    subject="tables",
                    cause=f"the collections '{other}' and '{name}' are one, since Milvus has an alias "
                    f"for '{own_name}'",
                    hint=f'Write `collection = "{own_name}"` in each of these tables',
                )
        tables = tuple(
            table.model_copy(update={"collection": own_names[table.collection]})
            for table in contract.tables
        )
        return cls(contract.model_copy(update={"tables": tables}), own_names, identities)

    def told(self) -> Iterator[str]:
        """What to tell the user: which names are aliases."""
        for name, own_name in self.own_names.items():
            if name != own_name:
                yield f"'{name}' is an alias of '{own_name}'"
