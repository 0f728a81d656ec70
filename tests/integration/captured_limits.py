"""What Debezium's messages leave out in some configurations, so that a collection differs from SQL.

Each limit says what the collection holds instead; the README beside the corpus lists them for users.
None is a limit of Rowvec: no other reader of these messages could do better.
"""

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from tests.captured import Variant
from tests.integration.captured_sql import Stored, Value, as_field
from tests.integration.captured_tables import Flavour

Rows = Sequence[Stored]


class Limit(NamedTuple):
    """One fact that the messages leave out.

    Attributes:
        tables: Affected tables.
        since: The first affected case, by the name of the database.
        where: Whether a configuration is affected.
        there: Computes the collection's rows from SQL's rows and those of the initial snapshot.
        deliveries: Affected ways of delivery; empty for all.
        letters: How many dead letters it causes in the first affected case.
        asked: The limit goes away when the flow may ask the database (`[source] dsn`).
    """

    name: str
    tables: Collection[str]
    since: Mapping[str, str]
    where: Callable[[Flavour], bool]
    there: Callable[[Flavour, Rows, Rows], list[Stored]]
    deliveries: Collection[str] = ()
    letters: int = 0
    asked: bool = False


class Told(NamedTuple):
    """The expected contents of a collection.

    Attributes:
        limits: Names of the limits that make it differ from SQL.
        letters: How many dead letters this case causes.
    """

    rows: list[Stored]
    limits: list[str]
    letters: int


def as_told(
    variant: Variant,
    flavour: Flavour,
    table: str,
    case: str,
    rows: Rows,
    first: Rows,
    *,
    delivery: str,
    asking: bool = False,
) -> Told:
    """The expected contents of a table's collection after a case.

    Args:
        rows: SQL's rows after the case.
        first: SQL's rows at the initial snapshot.
        delivery: The name of the way of delivery.
        asking: Whether the flow may ask the database.
    """
    names = [each.name for each in variant.cases]
    told = Told(list(rows), [], 0)
    for limit in LIMITS:
        since = limit.since.get(variant.database)
        if (
            table not in limit.tables
            or since not in names
            or names.index(case) < names.index(since)
            or not limit.where(flavour)
            or (limit.deliveries and delivery not in limit.deliveries)
            or (limit.asked and asking)
        ):
            continue
        there = limit.there(flavour, told.rows, first)
        if there != told.rows:
            letters = limit.letters if case == since else 0
            told = Told(there, [*told.limits, limit.name], told.letters + letters)
    return told


def _always(_flavour: Flavour) -> bool:
    return True


def _with(rows: Rows, changed: Callable[[Stored], Stored]) -> list[Stored]:
    return [{**row, **changed(row)} for row in rows]


# The replica identity is a unique index other than the primary key: Debezium's keys are wrong.


def _broken_keys(_flavour: Flavour, _rows: Rows, _first: Rows) -> list[Stored]:
    # The delete has key 0, and so has the delete of a supposed key change.
    return [{"text": "i2", "sql_id": id_, "sql_slug": "slug-2"} for id_ in (1, 2)]


# ExtractNewRecordState drops TRUNCATE, so truncated rows stay until they are written again.

_ITEMS = [
    {
        "text": product,
        "sql_order_id": order,
        "sql_line_no": line,
        "sql_product": product,
        "sql_qty": quantity,
    }
    for order, line, product, quantity in ((1, 1, "apple", 2), (1, 9, "pear", 3), (7, 1, "fig", 1))
]


def _kept(stays: Rows) -> Callable[[Flavour, Rows, Rows], list[Stored]]:
    def kept(_flavour: Flavour, rows: Rows, _first: Rows) -> list[Stored]:
        return [*rows, *stays]

    return kept


def _no_key(a: int, b: str) -> Stored:
    return {"text": b, "sql_a": a, "sql_b": b}


def _emptied(*rows: tuple[int, str]) -> Callable[[Flavour, Rows, Rows], list[Stored]]:
    def kept(_flavour: Flavour, there: Rows, _first: Rows) -> list[Stored]:
        ids = {row["sql_id"] for row in there}
        stays = [{"text": v, "sql_id": id_, "sql_v": v} for id_, v in rows if id_ not in ids]
        return [*there, *stays]

    return kept


def _unwrapped(flavour: Flavour) -> bool:
    return flavour.unwrapped


# DDL sends no change event: rows that were not written since keep their old values.

_WRITTEN_SINCE = {"pg": {1, 40, 50, 51, 60, 61}, "mysql": {1, 60, 70}}


def _no_default(flavour: Flavour, rows: Rows, _first: Rows) -> list[Stored]:
    written = _WRITTEN_SINCE[flavour.database]
    return _with(rows, lambda row: {} if row["sql_id"] in written else {"sql_lang": None})


def _not_dropped(_flavour: Flavour, rows: Rows, first: Rows) -> list[Stored]:
    texts = {row["sql_id"]: row["text"] for row in first}
    return _with(rows, lambda row: {"text": texts.get(row["sql_id"], row["text"])})


def _empty_after_all(_flavour: Flavour, rows: Rows, _first: Rows) -> list[Stored]:
    return _with(rows, lambda _row: {"text": ""})


# A publication leaves out generated columns, unless it is created with an option for them.


def _no_total(_flavour: Flavour, rows: Rows, _first: Rows) -> list[Stored]:
    return _with(rows, lambda _row: {"sql_total": None})


# Values that do not fit into Connect's types.


def _nan(flavour: Flavour, rows: Rows, _first: Rows) -> list[Stored]:
    nan = "NAN" if flavour.friendly else None
    return _with(rows, lambda row: {"sql_price": nan} if row["sql_price"] == "NaN" else {})


# A large value that an update did not change, of a type for which Debezium has no placeholder: it
# sends NULL, as if the value had been set to NULL.


def _null_for_toast(flavour: Flavour, rows: Rows, _first: Rows) -> list[Stored]:
    lost = {"sql_prices", "sql_stamps", "sql_flags", "sql_ratios", "sql_emb"}
    lost |= {"sql_days"} if flavour.friendly else {"sql_big"}
    return _with(rows, lambda row: {name: None for name in row if name in lost})


# A soft-deleted row is removed from the collection, so its large value cannot be carried forward when
# the row returns without it.


def _without(id_: int) -> Callable[[Flavour, Rows, Rows], list[Stored]]:
    def without(_flavour: Flavour, rows: Rows, _first: Rows) -> list[Stored]:
        return [row for row in rows if row["sql_id"] != id_]

    return without


# The initial snapshot reads a partitioned table twice, through its root and through its partitions,
# and writes to the topics of both; later changes go to one of the two.


def _as_at_first(_flavour: Flavour, _rows: Rows, first: Rows) -> list[Stored]:
    return list(first)


# ISO text without a schema: Debezium also writes a Z after times without a zone.


def _with_zone(_flavour: Flavour, rows: Rows, _first: Rows) -> list[Stored]:
    return _with(
        rows,
        lambda row: {
            name: f"{row[name]}Z"
            for name in ("sql_updated_at", "sql_tod")
            if row[name] not in (None, "-infinity")
        },
    )


# Bytes in hex, with a schema that declares a string.


def _hex(_flavour: Flavour, rows: Rows, _first: Rows) -> list[Stored]:
    return _with(
        rows,
        lambda row: {
            "sql_raw": None if row["sql_raw"] is None else base64.b64decode(row["sql_raw"]).hex()
        },
    )


# MySQL


def _signed(_flavour: Flavour, rows: Rows, _first: Rows) -> list[Stored]:
    return _with(
        rows, lambda row: {"sql_n": "-1"} if row["sql_n"] == "18446744073709551615" else {}
    )


def _year_of_two_digits(_flavour: Flavour, rows: Rows, _first: Rows) -> list[Stored]:
    year_one = as_field(Value("timestamp", "0001-01-01 00:00:00"), "varchar")
    adjusted = as_field(Value("timestamp", "2001-01-01 00:00:00"), "varchar")
    return _with(rows, lambda row: {"sql_dt": adjusted} if row["sql_dt"] == year_one else {})


LIMITS: Sequence[Limit] = (
    Limit(
        "replica identity by an index that is not the primary key",
        {"docs_index"},
        {"pg": "15_index_identity"},
        _always,
        _broken_keys,
    ),
    Limit(
        "TRUNCATE, unwrapped: one table",
        {"order_items"},
        {"pg": "24_truncate"},
        _unwrapped,
        _kept(_ITEMS),
    ),
    Limit(
        "TRUNCATE, unwrapped: the first of two",
        {"nopk_full"},
        {"pg": "25_truncate_two_tables"},
        _unwrapped,
        _kept([_no_key(1, "x"), _no_key(5, "q")]),
    ),
    Limit(
        "TRUNCATE, unwrapped: the second of two",
        {"nopk_default"},
        {"pg": "25_truncate_two_tables"},
        _unwrapped,
        _kept([_no_key(1, "x"), _no_key(2, "y")]),
    ),
    Limit(
        "TRUNCATE, unwrapped: within a transaction",
        {"emptied"},
        {"pg": "54_truncate_then_insert_tx"},
        _unwrapped,
        _emptied((1, "e1 after"), (2, "e2"), (3, "gone with the rest"), (4, "e4")),
    ),
    Limit(
        "TRUNCATE, unwrapped: after an insert",
        {"emptied"},
        {"pg": "55_insert_then_truncate"},
        _unwrapped,
        _emptied((5, "e5")),
    ),
    Limit(
        "TRUNCATE, unwrapped: CASCADE, the parents",
        {"parents"},
        {"pg": "56_truncate_cascade"},
        _unwrapped,
        _kept([{"text": "p2", "sql_id": 2}]),
    ),
    Limit(
        "TRUNCATE, unwrapped: CASCADE, the children",
        {"children"},
        {"pg": "56_truncate_cascade"},
        _unwrapped,
        _kept([{"text": "c3", "sql_id": 3, "sql_parent": 2}]),
    ),
    Limit(
        "no primary key, unwrapped: an update that changes what identifies the row",
        {"late_identity"},
        {"pg": "58_replica_identity_full_later"},
        _unwrapped,
        _kept([_no_key(2, "y")]),
    ),
    Limit(
        "ADD COLUMN … DEFAULT: rows that were there",
        {"articles"},
        {"pg": "26_alter_add_column", "mysql": "15_alter_add_column"},
        _always,
        _no_default,
    ),
    Limit(
        "generated columns",
        {"computed"},
        {"pg": "47_generated_column"},
        _always,
        _no_total,
    ),
    Limit("NaN of a numeric", {"articles"}, {"pg": "31_types_edge"}, _always, _nan),
    Limit(
        "ISO text without a schema",
        {"articles"},
        {"pg": "01_snapshot"},
        lambda flavour: flavour.friendly and not flavour.schemas,
        _with_zone,
    ),
    Limit(
        "bytes in hex with a schema",
        {"articles", "toasted"},
        {"pg": "01_snapshot"},
        lambda flavour: flavour.friendly and flavour.schemas,
        _hex,
    ),
    Limit(
        "TOAST without a placeholder",
        {"toasted_more"},
        {"pg": "40_toast_other_types"},
        _always,
        _null_for_toast,
    ),
    Limit(
        "TOAST: a soft delete is taken back in a later window",
        {"flagged_docs"},
        {"pg": "60_toast_soft_delete"},
        _always,
        _without(2),
        deliveries={"one by one"},
        letters=1,
        asked=True,
    ),
    Limit(
        "TOAST: a soft delete is taken back",
        {"flagged_docs"},
        {"pg": "61_toast_soft_undelete"},
        _always,
        _without(1),
        letters=1,
        asked=True,
    ),
    Limit(
        "a partitioned table's topic, while its partitions stream to their own",
        {"parted", "areas"},
        {"pg": "01_snapshot"},
        lambda flavour: not flavour.by_root,
        _as_at_first,
    ),
    Limit(
        "the partitions' topics, while they stream to their table's",
        {"parted_eu", "parted_us", "areas_eu", "areas_us"},
        {"pg": "01_snapshot"},
        lambda flavour: flavour.by_root,
        _as_at_first,
    ),
    Limit("BIGINT UNSIGNED", {"articles"}, {"mysql": "01_snapshot"}, _always, _signed),
    Limit(
        "a year below 100",
        {"articles"},
        {"mysql": "18_types_edge"},
        _always,
        _year_of_two_digits,
    ),
    Limit(
        "DROP COLUMN: rows that were there",
        {"inc"},
        {"mysql": "16_alter_rename_drop"},
        _always,
        _not_dropped,
    ),
    Limit(
        "DROP COLUMN: until a snapshot reads them again",
        {"inc"},
        {"mysql": "21_incremental_snapshot"},
        _always,
        _empty_after_all,
    ),
    Limit(
        "DROP TABLE",
        {"later"},
        {"mysql": "20_drop_table"},
        _always,
        _kept([{"text": "x", "sql_id": 1, "sql_v": "x"}]),
    ),
)
