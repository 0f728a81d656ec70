"""The guards of operators/state/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import always, dropped, gives, instead, never, replaced, without
from tests.mutation.selections import DEDUP, FROZEN, GOLDEN, PLACES, REFUSED, VERSIONS

GUARDS: tuple[Guard, ...] = (
    Guard(
        "horizon",
        "a version is remembered for the whole horizon",
        never,
        DEDUP,
    ),
    Guard(
        "unverified",
        "a row that the map does not know is looked up in the store",
        never,
        DEDUP,
    ),
    Guard(
        "unverified-over-crash",
        "the recovery files keep which rows were not looked up yet",
        without("unverified"),
        DEDUP,
    ),
    Guard(
        "whole",
        "once the map has forgotten rows, an unknown row is no longer taken for a new one",
        dropped,
        DEDUP,
    ),
    Guard(
        "learn-newer",
        "what the store holds does not replace a newer version in the map",
        always,
        DEDUP,
    ),
    Guard(
        "sent-over-crash",
        "the recovery files keep rows that were sent and may still be refused",
        gives("self.unverified"),
        VERSIONS,
    ),
    Guard(
        "gone-over-crash",
        "the recovery files keep deleted rows, since the store cannot tell of them",
        gives("unverified"),
        VERSIONS,
    ),
    Guard(
        "whole-over-crash",
        "a map that left rows to the store is not complete after a crash",
        dropped,
        VERSIONS,
    ),
    Guard(
        "state-is-a-copy",
        "changes after a snapshot do not alter the snapshot",
        replaced("dict(self.recent)", by="self.recent"),
        DEDUP,
    ),
    Guard(
        "restored-is-a-copy",
        "changes after a resume do not alter the state it resumed from",
        replaced("dict(packed['recent'])", by="packed['recent']"),
        DEDUP,
    ),
    Guard(
        "deleted-not-frozen",
        "deleted rows stay where each checkpoint and each resume looks for them",
        replaced("marks.gone | marks.unverified", by="marks.unverified"),
        FROZEN,
    ),
    Guard(
        "recent-before-frozen",
        "a later change of a row wins over its frozen version",
        always,
        FROZEN,
    ),
    Guard(
        "frozen-code-shared",
        "two keys with the same hash code are told apart",
        always,
        FROZEN,
    ),
    Guard(
        "frozen-version-exact",
        "a version in an unusual form comes back as it was",
        without("_dotted(digits, form) != version"),
        FROZEN,
    ),
    Guard(
        "frozen-hash-exact",
        "a text hash that would not come back exactly as written is not packed",
        gives("raw"),
        FROZEN,
    ),
    Guard(
        "stale-tombstone-over-crash",
        "the recovery files keep which deletes wait for their tombstones",
        replaced("self._marks.owed.pack()", by="({}, {})"),
        DEDUP,
    ),
    Guard(
        "truncate-fence",
        "a change older than a TRUNCATE of its table is dropped",
        gives("False"),
        DEDUP,
    ),
    Guard(
        "truncate-known",
        "rows that a TRUNCATE removed are known as deleted",
        dropped,
        DEDUP,
    ),
    Guard(
        "truncate-newer-stays",
        "a row that changed after a TRUNCATE is not taken for one that it removed",
        replaced("filter(self._is_gone, taken)", by="taken"),
        VERSIONS,
    ),
    Guard(
        "versions-doubtful",
        "a row that was sent before a crash is not forgotten before it is looked up",
        replaced("doubtful", by="{}"),
        VERSIONS,
    ),
    Guard(
        "taint-unpositioned",
        "a change without a position takes nothing from before a change that was refused at a position",
        gives("any(is_older(each, version) for each in refused)"),
        ("tests/unit/state/test_version_map.py",),
    ),
    Guard(
        "taint-at-position",
        "a row takes nothing across a missing version, also if they share one position",
        instead(
            "own = version[:-41]\nothers = [each for each in refused if each[:-41] != own]\nreturn any((is_older(each, version) and (not since or is_older(since, each)) for each in others))"
        ),
        ("tests/properties/test_known_shapes.py",),
    ),
    Guard(
        "taint-superseded",
        "a refusal of which a lane tells late says nothing about rows after a newer complete one",
        never,
        REFUSED,
    ),
    Guard(
        "taint-late",
        "also if a row that lacks columns was sent after that complete one",
        gives("known[0] if known[1] != '' else None"),
        REFUSED,
    ),
    Guard(
        "taint-late-by-an-epoch",
        "also if the shard's state was taken in between",
        gives("{}, {}"),
        REFUSED,
    ),
    Guard(
        "taint-over-crash",
        "the recovery files keep missing versions",
        replaced("self._refused.pack()", by="{}"),
        DEDUP,
    ),
    Guard(
        "taint-ends",
        "a newer complete row ends the effect of a missing version",
        never,
        DEDUP,
    ),
    Guard(
        "state-format",
        "the state of another release is refused",
        never,
        GOLDEN,
    ),
    Guard(
        "state-format-before",
        "but for that of the format before, which is read",
        always,
        GOLDEN,
    ),
    Guard(
        "stale-tombstone-late",
        "the tombstone of a later delete is not taken for that of the stale one",
        dropped,
        DEDUP,
    ),
    Guard(
        "deletes-of-two-places",
        "a delete from one partition does not take the tombstone of another partition's",
        replaced("(*owed, place)", by="(place,)"),
        VERSIONS,
    ),
    Guard(
        "tombstone-of-delete-elsewhere",
        "a tombstone that another partition brings belongs to the delete before it",
        gives("taken == place"),
        PLACES,
    ),
    Guard(
        "log-anew",
        "after a raised generation, the new log's changes are newer than the old one's",
        gives("False"),
        PLACES,
    ),
)
