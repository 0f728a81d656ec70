"""Filter expressions, and which ids, names, versions and shards are safe to put into one."""

import re
from collections.abc import Collection, Sequence

from operators.changes.row_key import key_prefix
from operators.changes.shards import SHARDS
from operators.changes.version import Version
from operators.errors import FatalError
from operators.milvus.schema import LEDGER_NAME_BYTES

_SAFE_ID = re.compile(r"[A-Za-z0-9_.~%:,#/-]+")

_SAFE_LEDGER_NAME = re.compile(r"[A-Za-z0-9_.~%/-]+")

_SAFE_VERSION = re.compile(r"[0-9a-f.]+")


def check_ids(ids: Sequence[str]) -> None:
    """Refuse ids that would not be safe inside a filter expression.

    Raises:
        FatalError: An id is not percent-encoded: a bug in Rowvec, never a fault of the data.
    """
    for one in ids:
        if not _SAFE_ID.fullmatch(one):  # guard: id-checked
            raise FatalError(
                subject="an entity id",
                cause="is not percent-encoded, so it could match other entities",
                hint="This is a bug in Rowvec: ids are made by `entity_id` alone",
            )


def id_filter(ids: Sequence[str]) -> str:
    """The expression that matches exactly these ids.

    Raises:
        FatalError: See `check_ids`.
    """
    check_ids(ids)
    return "id in [" + ",".join(f"'{one}'" for one in ids) + "]"


def check_version(version: Version) -> None:
    """Refuse a version that would not be safe inside a filter expression.

    Raises:
        FatalError: It holds more than hex digits and dots: a bug in Rowvec.
    """
    if not _SAFE_VERSION.fullmatch(version):  # guard: version-checked
        raise FatalError(
            subject="a version",
            cause="holds more than hex digits and dots, so it could match other entities",
            hint="This is a bug in Rowvec: versions are made by `make_version` alone",
        )


def check_shards(shards: Collection[int]) -> None:
    """Refuse numbers that are not those of shards.

    Raises:
        FatalError: A number is not that of a shard: a bug in Rowvec.
    """
    if not all(type(shard) is int and 0 <= shard < SHARDS for shard in shards):
        raise FatalError(
            subject="shards",
            cause=f"hold one that is no number from 0 to {SHARDS - 1}",
            hint="This is a bug in Rowvec: shards are made by `shard_of` alone",
        )


def older_filter(table: str, version: Version, shards: Collection[int] | None) -> str:
    """The expression that matches a table's entities below a version, in all or in some shards.

    It selects the table by a range of ids, because a table's name may hold characters that no server
    accepts in a literal. Ids begin with the percent-encoded name and a colon, so all ids of the table,
    and no others, lie between that prefix and the same prefix with a semicolon, the next character.

    Raises:
        FatalError: See `check_version` and `check_shards`.
    """
    check_version(version)
    first = key_prefix(table)
    check_ids([first])
    older = f"id >= '{first}' and id < '{first[:-1]};' and rv_version < '{version}'"
    if shards is None:
        return older
    check_shards(shards)
    return f"{older} and rv_shard in [{','.join(map(str, sorted(shards)))}]"


def check_ledger_names(names: Collection[str]) -> None:
    """Refuse names of ledger entries that would not be safe inside a filter expression.

    Raises:
        FatalError: A name is not percent-encoded, or too long.
    """
    for name in names:
        if not _SAFE_LEDGER_NAME.fullmatch(name):
            raise FatalError(
                subject="the name of an entry of the ledger",
                cause="is not percent-encoded",
                hint="This is a bug in Rowvec: only letters, digits and ._-~%/ may be in it",
            )
        if len(name) > LEDGER_NAME_BYTES:
            raise FatalError(
                subject=f"entry '{name[:200]}' of the ledger",
                cause=f"its name has {len(name)} bytes, more than {LEDGER_NAME_BYTES}",
                hint="Give the collection a shorter name",
            )
