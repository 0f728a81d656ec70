"""The recovery directory: creation, locks, and whether it can be resumed from.

Who may reach it is in `permissions`.
"""

import errno
import fcntl
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import IO

from bytewax.recovery import (
    InconsistentPartitionsError,
    MissingPartitionsError,
    NoPartitionsError,
    RecoveryConfig,
    init_db_dir,
)

from flows.recovery.files import (
    OR_LOSE,
    PUT_BACK,
    damaged,
    database_files,
    is_complete,
    keys_of,
)
from flows.recovery.permissions import (
    check_locks,
    check_place,
    close_to_others,
    create,
    open_lock,
)
from operators.contract.sections import RecoverySection
from operators.errors import FatalError

logger = logging.getLogger(__name__)

_LOCK = "rowvec.lock"

_STAGING = "rowvec.new"

_ROOM = 64 * 1024

_ROOM_PER_PART = 40 * 1024

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def check_directory(directory: Path) -> None:
    """Refuse a directory that others can reach, that this user cannot write to, or that is damaged.

    A flow may be running on it: the check changes nothing, and tolerates writes meanwhile. A directory
    that does not exist, is empty, or whose creation was interrupted, passes: a start creates it.

    Raises:
        FatalError: Names the file, what is wrong with it, and the ways to continue.
    """
    if not _is_usable(directory) and not directory.exists():
        _check_creatable(directory)


def check_ready(directory: Path) -> None:
    """As `check_directory`, but the directory must exist with all its parts.

    Bytewax's own command does not create it.

    Raises:
        FatalError: As `check_directory`; also if there are no recovery files.
    """
    if not _is_usable(directory):
        raise FatalError(
            subject=f"recovery directory {directory}",
            cause="there are no recovery files, or not all of them, and nothing ever ran on it",
            hint=f"create them in an empty directory: `python -m bytewax.recovery {directory} 8`",
        )


def fault_of(error: BaseException) -> FatalError | None:
    """Translate an error of Bytewax about its recovery files; None if it is about something else.

    In Bytewax a failed write is a Rust panic, of which only the text reaches Python.
    """
    subject = "recovery directory"
    if isinstance(error, InconsistentPartitionsError | MissingPartitionsError | NoPartitionsError):
        return FatalError(subject=subject, cause=f"{error}", hint=PUT_BACK + OR_LOSE)
    texts = list(_texts(error))
    found = next(filter(None, map(_SQLITE_FAILURE.search, texts)), None)
    if found is None:
        if not any("recovery DB" in text for text in texts):
            return None
        name = text = texts[-1]
    else:
        name, text = found.group("name"), found.group("text") or found.group("name")
    if name in {"DatabaseCorrupt", "NotADatabase"}:
        return FatalError(
            subject=subject, cause=f"a file is damaged: {text}", hint=PUT_BACK + OR_LOSE
        )
    return FatalError(
        subject=subject,
        cause=f"a checkpoint could not be read or written: {text}",
        hint="see that its disk has room and that this user may write there, then start again: "
        "nothing is lost",
    )


def _texts(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__


_SQLITE_FAILURE = re.compile(
    r"SqliteFailure\(Error \{ code: (?P<name>\w+), extended_code: \d+ \}"
    r'(?:, Some\("(?P<text>[^"]*)"\))?'
)


class Recovery:
    """The recovery directory of a running flow: created if missing, and locked while the flow runs.

    The main thread makes and releases it; the worker calls `check_intact`, which only reads.

    Args:
        section: Its path and number of partition files; the first start fixes the number.
        process: This process's number in the flow; no other running process may have the same.
        processes: Number of processes in the flow. Processes of higher numbers, from an earlier and
            larger flow, must have ended.

    Raises:
        FatalError: The directory is unsafe or damaged, or another process that must not is running
            on it.
    """

    def __init__(self, section: RecoverySection, process: int = 0, processes: int = 1) -> None:
        self._directory = section.directory
        check_place(self._directory)
        try:
            create(self._directory)
        except OSError as error:
            raise _not_created(self._directory, error) from None
        check_place(self._directory)  # Meanwhile it may have come from elsewhere.
        # A process keeps the lock of its own number while it runs. A second lock lets one process at
        # a time set the directory up.
        self._lock = self._lock_file(f"{_LOCK}.{process}")
        try:
            if not _try_lock(self._lock, fcntl.LOCK_EX):  # guard: recovery-lock
                raise FatalError(
                    subject=f"recovery directory {self._directory}",
                    cause=f"process {process} of this flow is running on it already",
                    hint="stop that one first, or give this flow a directory of its own",
                )
            _check_room(self._directory, _ROOM)
            closed = close_to_others(self._directory)
            if closed:
                logger.info("%d files in %s are no longer open to others", closed, self._directory)
            with self._lock_file(_LOCK) as setting_up:
                fcntl.flock(setting_up, fcntl.LOCK_EX)
                self._free = self._refuse_others(max(processes, process + 1))
                if not is_complete(self._directory):
                    _create(self._directory, section.partitions)
            held = [self._directory / f"{_LOCK}.{process}", *database_files(self._directory)]
            self._held = {path: _inode(path) for path in held}
        except BaseException:
            self._lock.close()
            raise

    def config(self) -> RecoveryConfig:
        """The configuration for Bytewax. Old snapshots are deleted at once: nothing needs them."""
        return RecoveryConfig(str(self._directory), timedelta(0))  # type: ignore[no-untyped-call]

    def identity(self) -> str:
        """The identity of the file that this process has locked: `boot:dev:ino`.

        A process that holds the lock of the same file knows that its former holder is dead: a living
        process keeps its lock, and no other file gets the device and inode of an open one. The boot id
        differs between machines and between boots. If the kernel gives none, the identity is random,
        so it never proves a holder dead.
        """
        return _identity(self._lock)

    def identities(self) -> tuple[str, ...]:
        """`identity`, and those of the free locks of processes of higher numbers."""
        return (self.identity(), *self._free)

    def keys_of(self, step_id: str) -> list[str]:
        """All state keys of a step. Call it only while Bytewax is not running on the directory."""
        return keys_of(self._directory, step_id)

    def check_intact(self) -> None:
        """Raise if a file of the directory was removed or replaced while the flow runs.

        SQLite would keep writing to the removed file, and every checkpoint would be lost at the end.
        The check is one `stat` per file, cheap enough for every checkpoint.

        Raises:
            FatalError: Names the file and the ways to continue.
        """
        for path, inode in self._held.items():
            if _inode(path) != inode:
                raise damaged(
                    path,
                    "it was removed or replaced while the flow was running on it",
                    "put back the whole directory",
                )

    def release(self) -> None:
        """Release the lock, so that another process can use the directory."""
        self._lock.close()

    def _refuse_others(self, processes: int) -> list[str]:
        """Raise if a process of a higher number is running; return the identities of their locks."""
        free = []
        for path in sorted(self._directory.glob(f"{_LOCK}.*")):
            number = path.name.removeprefix(f"{_LOCK}.")
            if not number.isdecimal() or int(number) < processes:
                continue
            with self._lock_file(path.name) as lock:
                if not _try_lock(lock, fcntl.LOCK_SH):
                    raise FatalError(
                        subject=f"recovery directory {self._directory}",
                        cause=f"process {number} of this flow is still running on it, and this "
                        f"start is one of {processes}, numbered from 0",
                        hint="stop all processes before their number changes",
                    )
                free.append(_identity(lock))
        return free

    def _lock_file(self, name: str) -> IO[str]:
        try:
            return open_lock(self._directory / name)
        except OSError as error:
            raise _not_writable(self._directory, error) from None


def _is_usable(directory: Path) -> bool:
    if not check_place(directory):
        return False
    check_locks(directory, _LOCK)
    _check_room(directory, _ROOM)
    return is_complete(directory)


def _check_creatable(directory: Path) -> None:
    """Refuse a directory that a start could not create, because its place is taken or read-only."""
    try:
        if directory.is_symlink():  # to nowhere
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        above = next(parent for parent in directory.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise _not_created(directory, error) from None


def _not_created(directory: Path, error: OSError) -> FatalError:
    return FatalError(
        subject=f"recovery directory {directory}",
        cause=f"it cannot be created: {error.strerror}",
        hint="name another in [recovery] directory",
    )


def _check_room(directory: Path, size: int) -> None:
    """Write so many bytes to a temporary file, so that a full disk shows before the flow starts."""
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(bytes(size))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise _not_writable(directory, error) from None


def _create(directory: Path, partitions: int) -> None:
    """Create all parts in a staging directory, then move them, so that no half-made part is used."""
    _check_room(directory, _ROOM + partitions * _ROOM_PER_PART)
    staging = directory / _STAGING
    try:
        for leftover in database_files(directory):  # from a creation that was interrupted
            leftover.unlink()
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        init_db_dir(staging, partitions)  # type: ignore[no-untyped-call]
        close_to_others(staging)
        for path in database_files(staging):
            path.rename(directory / path.name)
        shutil.rmtree(staging)
    except OSError as error:
        raise _not_writable(directory, error) from None
    except BaseException as error:
        fault = fault_of(error)
        if fault is None:
            raise
        raise fault from error


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _identity(lock: IO[str]) -> str:
    try:
        boot = _BOOT_ID.read_text("ascii").strip()
    except OSError:
        boot = str(uuid.uuid4())
    found = os.fstat(lock.fileno())
    return f"{boot}:{found.st_dev}:{found.st_ino}"


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _not_writable(directory: Path, error: OSError) -> FatalError:
    return FatalError(
        subject=f"recovery directory {directory}",
        cause=f"it cannot be written: {error.strerror}",
        hint="make room on its disk, let this user write to it, or move all of it to another: "
        "nothing is lost",
    )
