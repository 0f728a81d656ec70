"""Becomes another program that dies with its parent; run as a script between fork and exec.

`subprocess` offers the same through `preexec_fn`, but running Python between fork and exec can
deadlock in a process that has threads (a demo has: librdkafka, gRPC, torch), and Python 3.12 warns
of it. A separate short-lived interpreter has no such trouble. It needs the standard library only.

Usage: launcher.py PARENT_PID IDENTITY PROGRAM [ARGUMENT...], where IDENTITY is `keep` (the
caller's), `nobody` (drop root for uid 65534) or `namespace` (an unprivileged uid as seen from
inside a user namespace, for a program that refuses root but must read the caller's files).
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

    Call it after any change of user: such a change clears the setting.

    Raises:
        SystemExit: `parent` is gone already.
        OSError: The kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the setting took effect
        raise SystemExit(1)


def enter_user_namespace(inner_id: int, *, also: int = 0) -> None:
    """Moves this process into a new user namespace, where its user is called `inner_id`.

    Args:
        inner_id: The uid and gid that the process sees as its own; outside they stay what they are.
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
        ("setgroups", "deny"),  # the kernel wants this before an unprivileged gid_map
        ("uid_map", f"{inner_id} {uid} 1"),
        ("gid_map", f"{inner_id} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def main(parent: int, identity: str, argv: list[str]) -> None:
    """Takes on the identity, ties this process to `parent`, and becomes `argv`."""
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
    # Ignored and blocked signals are inherited (a shell's background job ignores SIGINT, Python
    # ignores SIGPIPE); the program must be stoppable whatever its ancestors did.
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
