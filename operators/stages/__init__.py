"""The stages of the flow, one per file: each a pure logic class and a thin Bytewax operator.

In this order: `source` (with `epoch_budget` and `partitions`), `route`, `dedup` (with `pending`,
`parked`, `settle` and `window_clock`), `look_up`, `embed`, `upsert` (with `lanes`, `lane_writer`,
`lane_batch`). `window` has the items that pass between them; `unchanged_text` decides which rows reuse
a vector. No stage imports another one. May import: everything below.
"""

__all__ = [
    "dedup",
    "embed",
    "lane_writer",
    "lanes",
    "look_up",
    "partitions",
    "route",
    "settle",
    "source",
    "upsert",
    "window",
    "window_clock",
]
