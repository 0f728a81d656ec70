"""The recovery directory: who may write there, and its first set-up.

Recovery files are pickles: whoever can write to them can run code in the flow. So the directory must
belong to the user who runs the flow and be writable by nobody else.
"""

import fcntl
import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import IO

from bytewax.recovery import RecoveryConfig, init_db_dir

from operators.contract import RecoverySection
from operators.errors import FatalError

_LOCK = "rowvec.lock"


def check_directory(directory: Path) -> None:
    """Refuse a directory that others can write, or that this user cannot.

    Raises:
        FatalError: With the mode that was found. A directory that is not there yet is fine.
    """
    subject = f"recovery directory {directory}"
    try:
        found = directory.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise FatalError(
            subject=subject,
            cause=f"it cannot be read: {error.strerror}",
            hint="name another in [recovery] directory",
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise FatalError(subject=subject, cause="it is no directory", hint="name another")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FatalError(
            subject=subject,
            cause=f"others can write to it (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"recovery files are executable in effect: chmod 700 {directory}",
        )
    if found.st_uid != os.geteuid():
        raise FatalError(
            subject=subject,
            cause=f"it belongs to user id {found.st_uid}, and this is user id {os.geteuid()}",
            hint="run as its owner, or name another in [recovery] directory",
        )


class Recovery:
    """The recovery directory of a running flow: created once, held while the flow runs.

    Args:
        section: Where, and how many partition files; the count is fixed by the first start.
        process: This process's number in the cluster. Two processes with one number are one too many.

    Raises:
        FatalError: Others can write to it, or another process of this number runs on it.
    """

    def __init__(self, section: RecoverySection, process: int = 0) -> None:
        self._directory = section.directory
        check_directory(self._directory)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise FatalError(
                subject=f"recovery directory {self._directory}",
                cause=f"it cannot be created: {error.strerror}",
                hint="name another in [recovery] directory",
            ) from None
        # One process at a time sets the directory up; the lock of its own number it keeps.
        self._lock = self._lock_file(f"{_LOCK}.{process}")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise FatalError(
                subject=f"recovery directory {self._directory}",
                cause=f"process {process} of this flow is running on it already",
                hint="stop that one first, or give this flow a directory of its own",
            ) from None
        with self._lock_file(_LOCK) as setting_up:
            fcntl.flock(setting_up, fcntl.LOCK_EX)
            if not any(self._directory.glob("part-*.sqlite3")):
                init_db_dir(self._directory, section.partitions)  # type: ignore[no-untyped-call]

    def config(self) -> RecoveryConfig:
        """For Bytewax. Old snapshots are dropped at once: what is older is of no use alone."""
        return RecoveryConfig(str(self._directory), timedelta(0))  # type: ignore[no-untyped-call]

    def release(self) -> None:
        """Let another process have the directory."""
        self._lock.close()

    def _lock_file(self, name: str) -> IO[str]:
        try:
            return (self._directory / name).open("w")
        except OSError as error:
            raise FatalError(
                subject=f"recovery directory {self._directory}",
                cause=f"it cannot be written: {error.strerror}",
                hint="let this user write to it, or name another in [recovery] directory",
            ) from None
