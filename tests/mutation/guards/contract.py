"""The guards of operators/contract/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import never
from tests.mutation.selections import SECRETS

GUARDS: tuple[Guard, ...] = (
    Guard(
        "credentials-in-uri",
        "an address of Milvus with credentials in it is refused, not shown",
        never,
        SECRETS,
    ),
)
