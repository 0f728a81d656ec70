"""Executes another program that is killed when its parent ends; run as a script of its own.

`subprocess` could do the same with `preexec_fn`. But Python code between fork and exec can deadlock in
a process with threads (the demo has some: librdkafka, gRPC, torch), and Python 3.12 warns of it. A
separate short interpreter is safe. It needs the standard library only.

Usage: launcher.py PARENT_PID IDENTITY PROGRAM [ARGUMENT...], where IDENTITY is `keep` (the
caller's), `nobody` (change from root to uid 65534) or `namespace` (an unprivileged uid inside a user
namespace, for a program that refuses root but must read the caller's files).
"""

import ctypes
import os
import signal
import sys

NOBODY = 65534

_PR_SET_PDEATHSIG = 1

_CLONE_NEWUSER = 0x10000000

_PLAIN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)


def die_with_parent(parent: int) -> None:
    """Has the kernel send SIGKILL to this process when the thread that started it ends.

    Call it after any change of user, because that clears the setting.

    Raises:
        SystemExit: `parent` has ended already.
        OSError: The kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the setting took effect
        raise SystemExit(1)


def enter_user_namespace(inner_id: int, *, also: int = 0) -> None:
    """Moves this process into a new user namespace, in which its uid is `inner_id`.

    Args:
        inner_id: The uid and gid inside the namespace; outside they do not change.
        also: Further CLONE_NEW* flags.

    Raises:
        OSError: The kernel or a sandbox (a container's seccomp profile, AppArmor) forbids it.
    """
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | also) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"user namespaces are not allowed here ({os.strerror(code)})")
    for name, text in (
        ("setgroups", "deny"),  # the kernel requires this before an unprivileged gid_map
        ("uid_map", f"{inner_id} {uid} 1"),
        ("gid_map", f"{inner_id} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def main(parent: int, identity: str, argv: list[str]) -> None:
    """Changes to the identity, ties this process to `parent`, and executes `argv`."""
    match identity:
        case "keep":
            pass
        case "nobody":
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        case "namespace":
            enter_user_namespace(1000)
        case _:
            raise SystemExit(f"unknown identity {identity!r}")
    # Ignored and blocked signals are inherited: a shell's background job ignores SIGINT, Python ignores
    # SIGPIPE. Reset them, so that the program can be stopped.
    for number in _PLAIN_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    die_with_parent(parent)
    os.execv(argv[0], argv)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
    except OSError as error:
        sys.exit(f"cannot start {sys.argv[3]}: {error}")
