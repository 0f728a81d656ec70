"""What a field of a collection may be called: one rule for Milvus Lite and every server.

Milvus Lite takes any name and any number of fields, and servers differ. A contract that one of them
takes and another one refuses would work on a laptop and fail where it matters, so the contract refuses
whatever any of them does.
"""

import re
import unicodedata
from collections.abc import Collection

MAX_FIELDS = 64
"""The most fields of a collection that a server takes as it is set up by default."""

MAX_COLUMNS = 46
"""The most columns that a table mirrors: `MAX_FIELDS` without Rowvec's own fields."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")

# Fields that a server adds to each collection, and those of Milvus Lite's files.
_SYSTEM = frozenset({"RowID", "Timestamp", "_partition", "_seq"})

# A field of one of these names could not be named in a filter; newer servers refuse to create it.
_KEYWORDS = frozenset(
    (
        *("like", "exists", "and", "or", "not", "in", "true", "false", "null", "iso", "interval"),
        *("json_contains", "json_contains_all", "json_contains_any", "array_length"),
        *("array_contains", "array_contains_all", "array_contains_any"),
        *("text_match", "phrase_match", "random_sample"),
    )
)


def problem_with(field: str) -> str | None:
    """Why no field of a collection can have this name; None if one can."""
    if not _NAME.fullmatch(field):
        return (
            "is no name for a field of Milvus: it takes letters from A to Z, digits and _, not a digit "
            "first, 255 at most"
        )
    if field in _SYSTEM:
        return "is a field of Milvus's own"
    # Servers compare each word in one or two spellings only; nobody would remember which.
    if field.casefold() in _KEYWORDS:  # guard: field-is-no-keyword
        return "is a word of Milvus's filter language"
    return None


def another_name(column: str, taken: Collection[str]) -> str:
    """A field's name to suggest for a column whose own name no field can have."""
    plain = unicodedata.normalize("NFKD", column)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    name = re.sub("[^A-Za-z0-9_]+", "_", plain)[:200]
    if not name.strip("_"):
        name = "column"
    elif name[0].isdigit():
        name = f"_{name}"
    while name in taken or problem_with(name):
        name += "_"
    return name
