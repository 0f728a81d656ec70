"""Who may give a partial row what it lacks, and what is left of a row where nobody can.

Everything here is pure: it reads no store, keeps nothing, and makes no dead letter. The stages bring
the versions that they have at hand, and act on the answer.

An update that leaves a large value alone does not send it (TOAST). Its value is that of the version
before it. Any other version may hold an old value, and nothing would ever correct that here. So each
partial row says which version it follows, and this table says who may give:

| the row follows | window, lane | store | old key | database | who may not give, and why |
|---|---|---|---|---|---|
| a known version | that one (1) | that one (1) | – | last | an older one: the value changed since |
| `Follows.UNKNOWN` | – | what it holds (2) | – | last | a newer one: it may hold a newer value |
| `Follows.REFUSED` (3) | – | – | – | alone | an older one: the refused one had the value |
| its old key (4) | – | that one (1) | first (5) | last | the new key's past: another row's |
| any, from another place (6) | – | – | – | alone | any: others may lie between, not read yet |

1. Or a newer one, up to the row's own: after a crash the store may have what the process before wrote,
   which the row has superseded in its window. That left the same columns out.
2. If it is not newer than the row.
3. The version before was refused, could not be read, or is a delete.
4. The version that it follows is then the change of the key itself.
5. Not where a database can be asked: what the old key held may have come from there, when another row
   had that key already, and nothing would correct it.
6. The version before it lies in another partition or topic, because partitions were added or the topic
   was renamed. That one may be read far behind, so later versions of the row may wait there.

A donor may lack a column itself. Then the row takes over what its donor follows, and asks for the
column where the donor would. A change in the window gives its columns as they came: it does not
matter whether its row can be rendered, or is kept out of the collection by a filter or a soft delete.

What the changes of a window leave of their row:

| the newest change | what is left |
|---|---|
| cannot be rendered, or completed | a dead letter, and what the older changes leave |
| a whole row, a delete | that change |
| partial, and the older ones lack the same and follow the same | that change (7) |
| partial, and follows a refused version, or its old key | that change, and its fallbacks (8) |
| partial, and the one before it is from another place | the same (8) |

7. No older one can be completed where it cannot.
8. The older changes, down to the first that cannot be refused for what it lacks: a whole row, or a
   delete. Where the lane cannot complete the row, it writes the newest of them that it can.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from operators.changes.events import Delete, Upsert
from operators.changes.row_key import RowKey
from operators.changes.rows import Followed, Follows, Move, PartialRow, Pending, Row, Winner
from operators.changes.version import Version, is_before, is_same_or_older, other_place
from operators.errors import RecordError
from operators.rendering.renderer import Rendered, Renderer
from operators.toast.donor import Donor, donor_of_row
from operators.toast.key_changes import Held

WasRefused: TypeAlias = Callable[[RowKey, Version, str], bool]
"""Whether a change of a row was refused, or could not be read, before a version and after another."""


class Settled(NamedTuple):
    """What the changes of a row in one window leave of it.

    Attributes:
        last: To be written; None where every change is bad.
        fallbacks: Older changes, oldest first, of which the newest that can be is to be written where
            `last` cannot be completed.
        bad: The changes that cannot be rendered or completed, newest first.
    """

    last: Rendered | None
    fallbacks: list[Rendered]
    bad: list[tuple[Upsert | PartialRow, RecordError]]


def may_give(version: Version, followed: Followed, up_to: Version) -> bool:
    """Whether a version of a row is the one that is followed, or a later one up to the row's own."""
    if other_place(version, up_to):  # guard: left-out-other-place
        return False
    if isinstance(followed, Follows):
        # guard: left-out-refused
        return followed is Follows.UNKNOWN and is_same_or_older(version, up_to)
    # guard: left-out-follows
    return is_same_or_older(followed, version) and is_same_or_older(version, up_to)


def fill(row: PartialRow, donor: Donor, renderer: Renderer) -> Rendered:
    """The row with what the donor may give; the row as it is where that is nothing.

    Raises:
        RecordError: The two together are no row that can be stored.
    """
    # guard: left-out-between
    return _take(row, donor, renderer) if may_give(donor.version, row.follows, row.version) else row


def _take(row: PartialRow, donor: Donor, renderer: Renderer) -> Rendered:
    filled = renderer.complete(row, donor.texts, donor.columns)
    if isinstance(filled, PartialRow):
        # The donor lacks these columns as well: they are asked for where it would ask.
        # guard: left-out-passed-on
        return filled._replace(follows=donor.follows, old_key=donor.old_key)
    return filled


# In the window.


def settle(changes: Sequence[Pending], renderer: Renderer, was_refused: WasRefused) -> Settled:
    """What a row's changes in one window leave of it.

    Args:
        changes: All of one row, oldest first.
        renderer: Of their table.
        was_refused: Of changes that are not among them.
    """
    bad: list[tuple[Upsert | PartialRow, RecordError]] = []
    last, left = _newest_valid(changes, renderer, was_refused, bad)
    fallbacks: list[Rendered] = []
    row = last
    while left and isinstance(row, PartialRow):  # guard: fallbacks-in-window
        row, left = _newest_valid(changes[:left], renderer, was_refused, bad)
        # One that follows a refused version as well would be refused with the last one.
        if row is not None and not (isinstance(row, PartialRow) and row.follows is Follows.REFUSED):
            fallbacks.insert(0, row)
    return Settled(last, fallbacks, bad)


def _newest_valid(
    changes: Sequence[Pending],
    renderer: Renderer,
    was_refused: WasRefused,
    bad: list[tuple[Upsert | PartialRow, RecordError]],
) -> tuple[Rendered | None, int]:
    """The newest change that can be rendered, with what older ones give; adds to the bad ones.

    Returns:
        The row, or None if all are bad; and how many of the changes are older and may be needed.
    """
    left = len(changes)
    while left:
        left -= 1
        change = changes[left]
        try:
            row = renderer.render(change) if isinstance(change, Upsert) else change
        except RecordError as error:  # guard: dead-letter-in-chain
            assert isinstance(change, Upsert)
            bad.append((change, error))
            continue  # guard: dead-letter-leaves-row
        if not (left and isinstance(row, PartialRow)):
            return row, left
        try:
            filled, used = _fill_from_earlier(row, changes[:left], renderer, was_refused)
            return filled, left - used
        except RecordError as error:
            bad.append((row, error))
    return None, 0


def _fill_from_earlier(
    row: PartialRow, earlier: Sequence[Pending], renderer: Renderer, was_refused: WasRefused
) -> tuple[Rendered, int]:
    """The row with what older changes of its window give, newest first.

    Returns:
        The row, and how many of the older changes it makes superfluous. They lack what it lacks, and
        ask whom it asks.

    Raises:
        RecordError: With what they give it is no row that can be stored.
    """
    filled: Rendered = row
    used = 0
    for before in reversed(earlier):
        if not isinstance(filled, PartialRow) or filled.old_key is not None:
            break
        if filled.follows is Follows.REFUSED:
            break
        # guard: taint-in-window
        if isinstance(before, Delete) or was_refused(row.row_key, row.version, before.version):
            filled = filled._replace(follows=Follows.REFUSED)
            break
        if other_place(before.version, row.version):  # guard: left-out-other-place-in-window
            filled = filled._replace(follows=Follows.REFUSED)
            break
        try:
            donor = _donor_of(before, filled.missing, renderer)
        except RecordError:
            filled = filled._replace(follows=Follows.REFUSED)
            break
        filled = _take(filled, donor, renderer)
        if isinstance(filled, PartialRow) and isinstance(before, Row):
            break  # not even the whole row has it
        used += 1
    return filled, used


def _donor_of(
    change: Upsert | Row | PartialRow, columns: Sequence[str], renderer: Renderer
) -> Donor:
    """What an older change of the window says of some columns.

    Raises:
        RecordError: It has no such column, or nothing that can be stored in it.
    """
    if not isinstance(change, Upsert):
        return donor_of_row(change)
    texts, fields = renderer.values_in(change, columns)
    follows = Follows.UNKNOWN if change.old_key is None else change.version
    return Donor(change.version, texts, fields, follows, change.old_key)


def held_in_window(
    delete: Delete, earlier: Sequence[Pending], renderer: Renderer, was_refused: WasRefused
) -> Held | Move:
    """What a row held whose key changed.

    Args:
        delete: Of the old key.
        earlier: The changes of the old key before it, in its window.
        renderer: Of its table.
        was_refused: As in `settle`.

    Returns:
        None where that is not known; or what the lane has to find out.
    """
    if not earlier:
        return Move(delete)
    last = earlier[-1]
    if was_refused(delete.row_key, delete.version, last.version):  # guard: taint-moves
        return None
    if other_place(last.version, delete.version):  # guard: left-out-other-place-moves
        return None
    try:
        row = renderer.render(last) if isinstance(last, Upsert) else last
        if isinstance(row, PartialRow):
            row, _ = _fill_from_earlier(row, earlier[:-1], renderer, was_refused)
    except RecordError:
        return None
    if isinstance(row, PartialRow) and row.old_key is None:
        return None if row.follows is Follows.REFUSED else Move(delete, row)
    return None if isinstance(row, Delete) else row


# In the lane.


def asks_the_same(row: PartialRow, before: Winner) -> bool:
    """Whether a row cannot be completed where the one before it cannot, and is refused with it."""
    return isinstance(before, PartialRow) and (before.old_key, before.follows) == (
        row.old_key,
        row.follows,
    )


def donor_in_lane(
    row: PartialRow, held: Donor | None, stored: Donor | None, *, database: bool
) -> Donor | None:
    """Who gives a row what it lacks, before the database is asked.

    Args:
        row: To be written next.
        held: What it held under its old key.
        stored: The row as the store has it.
        database: It can be asked.
    """
    # guard: left-out-other-row
    if row.old_key is not None and held is not None and not database:
        return held
    if stored is not None and may_give(stored.version, row.follows, row.version):
        return stored
    return None


def held_in_lane(
    move: Move, before: Row | PartialRow | None, stored: Donor | None, renderer: Renderer
) -> Held:
    """What a row held whose key changed, where its window could not tell.

    Args:
        move: The change of the key.
        before: The row as it waits in its lane.
        stored: The row as the store has it.
        renderer: Of its table.

    Returns:
        None where that is not known.

    Raises:
        RecordError: It is no row that can be stored.
    """
    row: Rendered
    if move.held is not None:
        row = move.held if before is None else fill(move.held, donor_of_row(before), renderer)
    elif before is not None:
        # guard: left-out-refused-between
        if not may_give(before.version, move.follows, move.delete.version):
            return None
        row = before
    elif stored is not None and may_give(stored.version, move.follows, move.delete.version):
        return stored
    else:
        return None
    if isinstance(row, PartialRow) and row.old_key is None:
        if stored is not None:
            row = fill(row, stored, renderer)
        return row if isinstance(row, Row) else None
    return None if isinstance(row, Delete) else row


def fall_back(fallbacks: list[Winner], stored: Version | None) -> Winner | None:
    """Take the newest fallback of a row that cannot be completed; None if the store has a newer one.

    Args:
        fallbacks: Oldest first; the newest is taken out.
        stored: The version that the store has. After a crash it may be ahead of a fallback.
    """
    newest = fallbacks.pop() if fallbacks else None
    # One without a position was held against the store before it came to the lane.
    # guard: fallback-ahead
    if newest is None or (stored is not None and is_before(newest.version, stored)):
        return None
    return newest
