"""Tables and columns as messages name them, and as the SQL of a fix must write them."""

import re
from collections.abc import Iterable
from typing import TypeAlias

Origin: TypeAlias = tuple[str, str]
"""Schema and name of a table."""

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")


def sql_name(origin: Origin) -> str:
    """A table's name as one writes it in SQL."""
    quoted = (
        part if _PLAIN_NAME.fullmatch(part) else '"' + part.replace('"', '""') + '"'
        for part in origin
    )
    return ".".join(quoted)


def listed(names: Iterable[str]) -> str:
    """Names of columns, as a message lists them."""
    return ", ".join(f"'{name}'" for name in names)
