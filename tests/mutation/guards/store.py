"""The guards of operators/store/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import always, dropped, gives, instead, never, replaced, without
from tests.mutation.selections import REQUESTS, WRITER

GUARDS: tuple[Guard, ...] = (
    Guard(
        "truncate-own-shards",
        "a lane empties only those shards that have come to the TRUNCATE",
        without("sorted(shards)"),
        WRITER,
    ),
    Guard(
        "chunk-surplus",
        "chunks beyond those of the new text are removed",
        dropped,
        REQUESTS,
    ),
    Guard(
        "chunk-surplus-first",
        "the first chunk records the surplus until that is removed",
        gives("rows"),
        REQUESTS,
    ),
    Guard(
        "chunk-delete",
        "a row is deleted with all its chunks",
        dropped,
        REQUESTS,
    ),
    Guard(
        "chunk-first-goes-last",
        "of a row's chunks the first is the last to be deleted",
        instead(
            "self._delete(collection, list(map(entity_id, keys)))\nself._delete(collection, ids)"
        ),
        REQUESTS,
    ),
    Guard(
        "chunk-torn",
        "a row that lacks a chunk is not taken for complete",
        always,
        REQUESTS,
    ),
    Guard(
        "chunk-versions",
        "chunks of two versions are not taken for one row",
        without("e.version == entity.version"),
        REQUESTS,
    ),
    Guard(
        "request-rows",
        "a request holds no more entities than the contract says",
        never,
        REQUESTS,
    ),
    Guard(
        "dead-letter-store",
        "a row that the store refuses becomes a dead letter, and the rest goes on",
        replaced("RecordError", by="ZeroDivisionError"),
        REQUESTS,
    ),
    Guard(
        "dead-letter-halving",
        "a refused request is halved down to the rows that are refused",
        always,
        REQUESTS,
    ),
    Guard(
        "fatal-is-no-letter",
        "an error that is not about the data never becomes a dead letter",
        replaced("RecordError", by="Exception"),
        REQUESTS,
    ),
)
