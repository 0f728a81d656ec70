"""The guards of operators/contract/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import never
from tests.mutation.selections import FIELDS, SECRETS

GUARDS: tuple[Guard, ...] = (
    Guard(
        "credentials-in-uri",
        "an address of Milvus with credentials in it is refused, not shown",
        never,
        SECRETS,
    ),
    Guard(
        "field-has-a-name",
        "a column whose name no field can have is refused by the contract",
        never,
        FIELDS,
    ),
    Guard(
        "field-is-no-keyword",
        "a field that no filter could name is refused by the contract",
        never,
        FIELDS,
    ),
    Guard(
        "number-of-fields",
        "more columns than a collection has fields are refused by the contract",
        never,
        FIELDS,
    ),
)
