"""What each fast path of decoding saves: records of PostgreSQL → rendered rows, with and without it.

    python -m benchmarks.fast_paths

`all` reads a record's key, makes its change event and renders its row, as the flow does. Each other
contestant does the same with one fast path taken out, so that the slow path does its work:

- `without_fast_versions`: no `operators.codec.fast_versions`, so `log_positions` gives each version;
- `without_fast_rows`: no `operators.rendering.fast_rows`, so `Renderer.render` looks at each value;
- `without_fast_fields`: `fast_rows` calls `as_field` for each field, instead of testing for the most
  common values first.

The slow paths give the same results, so a fast path stays only while it saves at least 5 % of the time.
Bytewax, the model and the store are left out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

from benchmarks.contracts import TABLE, idle_contract
from benchmarks.envelopes import Change, update
from benchmarks.measuring import Rate, clocks, parser, print_result, take_turns
from operators.changes.events import KafkaPosition
from operators.codec.decoder import Decoder
from operators.contract.table import ColumnSpec, TableSection
from operators.rendering.field_values import as_field
from operators.rendering.renderer import Renderer

FIRST_LSN = 5_000_000_000


class Path:
    """From the bytes of a record to its row, for one table."""

    def __init__(self, table: TableSection) -> None:
        self.topic = table.topic
        self.decoder = Decoder(table)
        self.renderer = Renderer(table)

    def run(self, changes: list[Change]) -> Rate:
        """Records per second."""
        positions = [KafkaPosition(self.topic, 0, offset) for offset in range(len(changes))]
        row_keys, event, render = self.decoder.row_keys, self.decoder.event, self.renderer.render
        started = clocks()
        for (key, value), position in zip(changes, positions, strict=True):
            (row_key,) = row_keys(key, value)
            render(event(row_key, value, position))  # type: ignore[arg-type]  # all are upserts
        return Rate.of(len(changes), started, clocks())


def without_fast_versions(path: Path, changes: list[Change]) -> Rate:
    """The same, while the decoder finds no fast path to a version."""
    with patch("operators.codec.decoder.streamed_version", lambda *_: None):
        return path.run(changes)


def slow_field(spec: ColumnSpec) -> Callable[[Any], Any]:
    """`as_field` for one column, without a test for common values."""
    return lambda value: as_field(value, spec)


def contestants(table: TableSection, changes: list[Change]) -> dict[str, Callable[[], Rate]]:
    """By name; each has a path of its own."""
    slow_rows, slow_fields = Path(table), Path(table)
    slow_rows.renderer._fast = None
    fast = slow_fields.renderer._fast
    assert fast is not None
    fast._makers = [
        (column, spec.field or column, slow_field(spec)) for column, spec in table.columns.items()
    ]
    return {
        "all": partial(Path(table).run, changes),
        "without_fast_versions": partial(without_fast_versions, Path(table), changes),
        "without_fast_rows": partial(slow_rows.run, changes),
        "without_fast_fields": partial(slow_fields.run, changes),
    }


def main() -> None:
    """Run it."""
    options = parser(__doc__).parse_args()
    records = 500 if options.quick else 20_000
    rounds = options.rounds or (2 if options.quick else 25)
    changes = [update(TABLE, n % (records // 2), FIRST_LSN + n) for n in range(records)]
    (table,) = idle_contract().tables
    each = contestants(table, changes)
    for contestant in each.values():
        contestant()  # each renders its first row on the slow path
    done = take_turns(rounds, each)
    ratios: dict[str, list[float]] = {}
    for name in each:
        if name != "all":
            ratios |= done.ratios(f"{name}_takes", "all", name)
    print_result(
        "fast_paths",
        quick=options.quick,
        ratios=ratios,
        rates=done.per_second("records"),
        counts={"records": records, "rows": records // 2},
    )


if __name__ == "__main__":
    main()
