"""The way of the data, one stage per file, each a pure Logic class and a thin Bytewax operator.

In this order: `source` (with `epoch_budget`), `route`, `dedup` (with `pending`, `settle` and
`window_clock`), `look_up`, `embed`, `upsert` (with `lanes`, `lane_writer`, `lane_batch`). `window` is
what travels between them; `unchanged_text` says which of them may use a vector again. The stages do
not know each other. May import: everything below.
"""

__all__ = [
    "dedup",
    "embed",
    "lane_writer",
    "lanes",
    "look_up",
    "route",
    "settle",
    "source",
    "upsert",
    "window",
    "window_clock",
]
