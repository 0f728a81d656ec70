"""The guards of operators/rendering/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import never, replaced, without
from tests.mutation.selections import MASKING, RENDERING

GUARDS: tuple[Guard, ...] = (
    Guard(
        "zero-dates",
        "a row whose soft-delete column has a zero date stays in the collection",
        without("not _is_zero_date(text)"),
        ("tests/unit/rendering/test_filters.py", "-k", "SoftDelete"),
    ),
    Guard(
        "left-out-literal",
        "a text like the placeholder, in a row that was sent whole, is the row's own",
        never,
        RENDERING,
    ),
    Guard(
        "mask-twice",
        "a member of JSON that a later one of its name hides does not pass a mask",
        without("not twice"),
        MASKING,
    ),
    Guard(
        "left-out",
        "Debezium's placeholder is never taken for a value",
        never,
        RENDERING,
    ),
    Guard(
        "left-out-plain",
        "the placeholder is not taken for a text on the fast path of plain rows",
        without("len(value) in lengths"),
        RENDERING,
    ),
    Guard(
        "left-out-plain-field",
        "the placeholder is not taken for a field on the fast path of plain rows",
        without("kind is str and len(value) in lengths"),
        RENDERING,
    ),
    Guard(
        "mask-value",
        "a masked column is masked before anything sees it",
        never,
        RENDERING,
    ),
    Guard(
        "mask-refuses",
        "a pattern that takes too long refuses the row, and never lets the value through",
        never,
        MASKING,
    ),
    Guard(
        "mask-escapes",
        "escapes of JSON are decoded before they are searched",
        replaced("self._unescaped(value, left)", by="value"),
        MASKING,
    ),
    Guard(
        "text-bytes",
        "a row's text of more bytes than the store holds is refused",
        never,
        RENDERING,
    ),
    Guard(
        "absent-field",
        "a field that a document of MongoDB lacks is NULL, and the update is not refused",
        without("(policy is None and isinstance(columns, Document))"),
        ("tests/unit/rendering/test_renderer.py", "-k", "document_lacks"),
    ),
)
