"""The guards of the product, by the room of `operators/` (or `flows`) in which each stands."""

from itertools import chain

from tests.mutation.guard import Guard
from tests.mutation.guards import (
    changes,
    codec,
    contract,
    errors,
    flows,
    kafka,
    milvus,
    model,
    ownership,
    printable,
    rendering,
    retry,
    stages,
    state,
    store,
    toast,
)

ROOMS: dict[str, tuple[Guard, ...]] = {
    "changes": changes.GUARDS,
    "codec": codec.GUARDS,
    "contract": contract.GUARDS,
    "errors": errors.GUARDS,
    "flows": flows.GUARDS,
    "kafka": kafka.GUARDS,
    "milvus": milvus.GUARDS,
    "model": model.GUARDS,
    "ownership": ownership.GUARDS,
    "printable": printable.GUARDS,
    "rendering": rendering.GUARDS,
    "retry": retry.GUARDS,
    "stages": stages.GUARDS,
    "state": state.GUARDS,
    "store": store.GUARDS,
    "toast": toast.GUARDS,
}

GUARDS: tuple[Guard, ...] = tuple(chain.from_iterable(ROOMS.values()))
