"""Who may reach the recovery directory: its owner alone.

Recovery files are pickles, so whoever can write to them can run code in the flow; and they hold keys of
rows and texts that wait to be written, so nobody else may read them either.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from operators.errors import FatalError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_place(directory: Path) -> bool:
    """Check type, owner and permissions of the directory; False if it does not exist.

    Raises:
        FatalError: It is none of ours alone, or others can put another one in its place.
    """
    subject = f"recovery directory {directory}"
    _check_parents(directory)
    try:
        found = directory.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise FatalError(
            subject=subject,
            cause=f"it cannot be read: {error.strerror}",
            hint="name another in [recovery] directory",
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise FatalError(subject=subject, cause="it is no directory", hint="name another")
    if found.st_uid != os.geteuid():  # guard: recovery-owner
        raise FatalError(
            subject=subject,
            cause=f"it belongs to user id {found.st_uid}, and this is user id {os.geteuid()}",
            hint="run as its owner, or name another in [recovery] directory",
        )
    if found.st_mode & _OTHERS:  # guard: recovery-others
        raise FatalError(
            subject=subject,
            cause=f"others have rights to it (mode {stat.S_IMODE(found.st_mode):04o}), and its files "
            "hold keys and texts of rows and are executable in effect",
            hint=f"close it: chmod 700 {directory}",
        )
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise FatalError(
            subject=subject,
            cause=f"this user cannot read and write it (mode {stat.S_IMODE(found.st_mode):04o}), "
            "or its file system is read-only",
            hint=f"mend that (chmod 700 {directory}), or name another in [recovery] directory",
        )
    return True


def _check_parents(directory: Path) -> None:
    """Refuse a parent in which anyone can rename what is there, so that it can be replaced.

    In a folder with the sticky bit, such as /tmp, only the owner can. The root of a mounted volume
    passes: a container's volume is often open to all, and nobody else is in the container.
    """
    for parent in _parents(directory):
        with suppress(OSError):  # one that cannot be looked at is found by what follows
            mode = parent.stat().st_mode
            # guard: recovery-parent
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and not os.path.ismount(parent):
                raise FatalError(
                    subject=f"recovery directory {directory}",
                    cause=f"anyone can replace it, because anyone can write to {parent} "
                    f"(mode {stat.S_IMODE(mode):04o})",
                    hint=f"close that: chmod o-w {parent}",
                )


def _parents(directory: Path) -> Iterator[Path]:
    """The folders above it, on the way by which it is named and on that to which links lead."""
    yield from directory.absolute().parents
    with suppress(OSError, RuntimeError):  # a circle of links
        yield from directory.resolve().parents


def create(directory: Path) -> None:
    """Create the directory for its owner alone, and the folders above it, which others may read.

    Raises:
        OSError: It cannot be created.
    """
    for parent in reversed(directory.absolute().parents):
        if not parent.exists():
            parent.mkdir(mode=0o755, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)  # guard: recovery-mode


def close_to_others(directory: Path) -> int:
    """Take from group and others every right to files of this user in the directory; to how many.

    SQLite makes its files readable for all, and a mount with `fsGroup` makes them writable for a group.
    """
    changed = 0
    for path in directory.iterdir():
        with suppress(FileNotFoundError):  # SQLite removes some of its files at any time
            found = path.lstat()
            open_to_others = stat.S_ISREG(found.st_mode) and found.st_mode & _OTHERS
            if open_to_others and found.st_uid == os.geteuid():
                path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)  # guard: recovery-files-closed
                changed += 1
    return changed


def open_lock(path: Path) -> IO[str]:
    """Open a lock file of this user, or create it; what a symbolic link leads to is not touched.

    Raises:
        FatalError: It is a link.
        OSError: It cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC  # guard: recovery-lock-link
    try:
        return os.fdopen(os.open(path, flags, 0o600), "r+")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise _is_a_link(path) from None


def check_locks(directory: Path, name: str) -> None:
    """Refuse lock files that `open_lock` would refuse, without opening them.

    Args:
        directory: The recovery directory.
        name: Name of the lock files; that of a process's own has its number behind it.

    Raises:
        FatalError: One of them is a link.
    """
    for path in sorted(directory.glob(f"{name}*")):
        number = path.name.removeprefix(name)
        ours = not number or (number[0] == "." and number[1:].isdecimal())
        if ours and path.is_symlink():  # guard: recovery-lock-link-checked
            raise _is_a_link(path)


def _is_a_link(path: Path) -> FatalError:
    return FatalError(
        subject=f"recovery directory {path.parent}, {path.name}",
        cause="the lock file is a symbolic link, which no flow has made",
        hint="look where it leads, and remove it",
    )
