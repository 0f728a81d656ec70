"""Checks the files of a recovery directory: each is intact, and all belong together.

Bytewax reads every `*.sqlite3` in it, whatever its name, and goes by the part number inside. Without a
warning it takes one of two files with the same number, or resumes with an older copy of one part. So
all files are checked before Bytewax opens one. They are only read, and every connection is closed:
Bytewax has a second copy of SQLite in this process, whose locks an open connection would break.
"""

import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from operators.errors import FatalError

PUT_BACK = "put the file back, from the same backup as all others"

OR_LOSE = (
    "; or name an empty directory and start with `--accept-lost-state`: rows that were deleted "
    "meanwhile may show again until their delete is read again"
)

_AROUND_IT = (OSError, sqlite3.OperationalError)
"""Errors of the disk or of another process, as opposed to damage of the file."""

_TABLES = frozenset({"parts", "exs", "fronts", "commits", "snaps"})


class Part(NamedTuple):
    """A recovery file, as described by its own tables.

    Attributes:
        epoch: The last committed epoch; 0 before the first.
        resumed: Epochs at which executions began. A part records only some of the executions.
        used: Whether anything was ever written to it.
    """

    path: Path
    number: int
    of: int
    epoch: int
    resumed: frozenset[int]
    used: bool


def is_complete(directory: Path) -> bool:
    """Whether the set of parts is complete, and all are of the same time.

    False if there is none yet, or its creation was interrupted. Any other defect raises `FatalError`.
    """
    files = database_files(directory)
    for path in files:
        for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            _check_file(each, beside=each != path)
    parts = [_read(path) for path in files]
    if not parts:
        return False
    _check_one_set(parts)
    count = parts[0].of
    missing = sorted(set(range(count)) - {part.number for part in parts})
    if missing:  # guard: recovery-part-missing
        # Every part records the commit of every epoch. If none does, there is nothing to lose.
        if not any(part.used for part in parts):
            return False
        numbers = ", ".join(map(str, missing))
        raise damaged(
            directory / f"part-{missing[0]}.sqlite3",
            f"of the {count} parts there is none with the number {numbers}",
        )
    if behind(parts, parts) is not None:  # guard: recovery-part-older
        # A flow may be running and committing right now. Read again: by now that commit is in all
        # parts.
        late = behind(parts, [_read(path) for path in files])
        if late is not None:
            newest = max(parts, key=lambda part: part.epoch)
            raise damaged(
                late.path,
                f"it ends at epoch {late.epoch}, and {newest.path.name} at epoch {newest.epoch}: "
                "they are copies of different times",
            )
    return True


def _check_one_set(parts: list[Part]) -> None:
    """Raise if a part exists twice, or belongs to a set of another size."""
    (count, _), *_ = Counter(part.of for part in parts).most_common(1)
    seen: dict[int, Part] = {}
    for part in parts:
        if part.of != count:
            raise damaged(
                part.path,
                f"it is part {part.number} of {part.of}, and the others are parts of {count}",
                "move it away, and put back what was there before",
            )
        twin = seen.setdefault(part.number, part)
        if twin is not part:  # guard: recovery-part-twice
            raise damaged(
                part.path,
                f"part {part.number} is there twice, in {twin.path.name} as well; Bytewax would "
                "take either",
                "move the copy out of the directory; if it is not known which one that is, put "
                "all files back from one backup",
            )


def behind(before: list[Part], now: list[Part]) -> Part | None:
    """Find a part whose last commit is older than a crash can explain.

    All parts commit an epoch before the next one begins, so a crash leaves some parts one epoch behind.
    A crash during the first commit of the next execution leaves them one more epoch behind. So, of the
    epochs that a part has not committed, all but the first must be ones where an execution began.

    Args:
        before: The parts, as read first.
        now: The same parts, read again later.
    """
    newest = max(part.epoch for part in before)
    began = frozenset[int]().union(*(part.resumed for part in now))
    for part in now:
        if not all(epoch in began for epoch in range(part.epoch + 2, newest + 1)):
            return part
    return None


def _check_file(path: Path, *, beside: bool) -> None:
    """Check the owner of a database, or of a file beside it, which may vanish meanwhile.

    Rights of others to it have no effect, since they cannot enter the directory.
    """
    try:
        found = path.lstat()
    except OSError as error:
        if beside and isinstance(error, FileNotFoundError):
            return
        raise damaged(path, f"it cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise damaged(path, "it is no regular file")
    if found.st_uid != os.geteuid():
        raise damaged(
            path,
            f"it belongs to user id {found.st_uid}, and this is user id {os.geteuid()}",
            f"give it to this user (chown {os.geteuid()})",
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise damaged(
            path,
            f"this user cannot read and write it (mode {stat.S_IMODE(found.st_mode):04o})",
            "give this user that right (chmod 600)",
        )


def _read(path: Path) -> Part:
    """Read a part's own tables as of its last commit, and let SQLite check the file."""
    try:
        with _connected(path) as database:
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if not names >= _TABLES:
                raise _no_part(path)
            # guard: recovery-part-damaged
            if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise damaged(path, "it is damaged: SQLite finds pages that do not fit together")
            ((page,),) = database.execute("PRAGMA page_size")
            if path.stat().st_size % page:  # SQLite would read the missing rest as zeros
                raise damaged(path, "it is damaged: its last page is cut off")
            parts = database.execute("SELECT part_index, part_count FROM parts").fetchall()
            if len(parts) != 1:
                raise _no_part(path)
            [(index, count)] = parts
            epochs = database.execute(
                "SELECT commit_epoch FROM commits WHERE part_index = ?", (index,)
            ).fetchall()
            resumed = [each for (each,) in database.execute("SELECT resume_epoch FROM exs")]
            used = database.execute("SELECT EXISTS (SELECT * FROM snaps)").fetchone() != (0,)
    except (sqlite3.Error, OSError) as error:
        # SQLite's errors describe the file, and never quote its contents.
        how = "cannot be read" if isinstance(error, _AROUND_IT) else "is damaged"
        raise damaged(path, f"it {how}: {error}") from None
    epoch = max((each for (each,) in epochs), default=0)
    return Part(path, index, count, epoch, frozenset(resumed), bool(epochs or resumed or used))


def keys_of(directory: Path, step_id: str) -> list[str]:
    """All state keys that the files of a directory have of a step, in order.

    Bytewax resumes only if the source has a partition for each of its keys. Call it before Bytewax
    opens the files.

    Raises:
        FatalError: A file cannot be read.
    """
    found: set[str] = set()
    for path in database_files(directory):
        try:
            with _connected(path) as database:
                found |= {
                    key
                    for (key,) in database.execute(
                        "SELECT DISTINCT state_key FROM snaps WHERE step_id = ?", (step_id,)
                    )
                }
        except (sqlite3.Error, OSError) as error:
            raise damaged(path, f"it cannot be read: {error}") from None
    return sorted(found)


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, and is closed at the end."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    wal = Path(f"{path}-wal")
    if not (wal.exists() and wal.stat().st_size):
        uri += "&immutable=1"  # otherwise SQLite would create the files beside it
    with closing(sqlite3.connect(uri, uri=True)) as database:
        if sqlite3.sqlite_version_info < (3, 37):
            # SQLite's manual: this lets older versions read STRICT tables.
            database.execute("PRAGMA writable_schema = ON")
        yield database


def database_files(directory: Path) -> list[Path]:
    """The files that Bytewax reads: all with this suffix, whatever their names."""
    return sorted(path for path in directory.iterdir() if path.suffix == ".sqlite3")


def _no_part(path: Path) -> FatalError:
    return damaged(
        path,
        "it is empty" if not path.stat().st_size else "it is no part of a recovery store",
        "move it out of the directory, of which Bytewax reads every file with this suffix; if it "
        "was a part, put that back, from the same backup as all others",
    )


def damaged(path: Path, cause: str, mend: str = PUT_BACK) -> FatalError:
    """The error for a defective file, with both ways to continue: repair it, or start anew."""
    name = path.name.encode("utf-8", "backslashreplace").decode()
    return FatalError(
        subject=f"recovery directory {path.parent}, {name}", cause=cause, hint=mend + OR_LOSE
    )
