"""A death at a fixed moment that the kernel carries out, whatever this process is doing then.

Two writers must never overlap, and a check before each write cannot see to that: a process can be
frozen between the check and the write, for longer than any lease, and writes when it goes on. So the
end of a lease is handed to the kernel. A timer of the process sends SIGKILL, which takes effect on a
stopped process as well, in the stop, and which a process of a frozen group meets before it runs
another instruction of its own. The clock is CLOCK_BOOTTIME: it goes on while the machine is
suspended, and nobody sets it.

What was handed to the kernel before is not called back: a request that lies in a socket's buffer may
still be sent after the death.
"""

import ctypes
import errno
import math
import os
import signal
import sys
import threading
from typing import Any

from operators.errors import FatalError

_CLOCK_BOOTTIME = 7

_TIMER_ABSTIME = 1

_SIGEV_SIGNAL = 0

_SIGEVENT_BYTES = 64

_NANOSECONDS = 1_000_000_000

_LATEST = 2.0**31

_INIT = 1

_SUBJECT = "the timer that ends this process when its lease does"

_BUG = "This is a bug in Rowvec"


class KillTimer:
    """Has the kernel end this process at a moment, running or stopped, unless it is put off.

    Safe to share between threads. The timer belongs to the process that made it: a child that it
    forks has none, and is refused when it asks for one here.

    Raises:
        FatalError: There is no such timer: this is not Linux, its kernel refuses, or the process is
            process 1 of its container, which no signal of its own can end.
    """

    def __init__(self) -> None:
        if os.getpid() == _INIT:  # guard: timer-first-process
            # The kernel drops every signal to the first process of a PID namespace that is not
            # handled and does not come from outside, SIGKILL and a timer's too.
            raise FatalError(
                subject=_SUBJECT,
                cause="this is process 1 of its container, which the kernel protects from SIGKILL",
                hint="Run it below an init: `docker run --init`, tini, or shareProcessNamespace",
            )
        self._lock = threading.Lock()
        self._library = _library()
        self._pid = os.getpid()
        self._timer: ctypes.c_void_p | None = None
        # guard: timer-kills
        event = _Sigevent(sigev_signo=signal.SIGKILL, sigev_notify=_SIGEV_SIGNAL)
        timer = ctypes.c_void_p()
        self._check(
            self._library.timer_create(_CLOCK_BOOTTIME, ctypes.byref(event), ctypes.byref(timer))
        )
        self._timer = timer

    def arm(self, at: float) -> None:
        """Die at this moment, and no longer at the one that was given before.

        Args:
            at: Seconds of CLOCK_BOOTTIME. A moment in the past kills at once.

        Raises:
            FatalError: It is no moment, or the kernel refuses.
        """
        if not math.isfinite(at):
            raise FatalError(subject=_SUBJECT, cause="was given no moment", hint=_BUG)
        # Rounded down, for dying early is safe. Zero would disarm, so the past begins after it.
        self._set(max(1, math.floor(min(at, _LATEST) * _NANOSECONDS)))

    def disarm(self) -> None:
        """Let the process live until `arm` is called again."""
        self._set(0)

    def close(self) -> None:
        """Give the timer back, disarmed; every later call does nothing."""
        if self._pid != os.getpid():
            return
        with self._lock:
            timer, self._timer = self._timer, None
            if timer is not None:
                self._check(self._library.timer_delete(timer))

    def _set(self, nanoseconds: int) -> None:
        seconds, rest = divmod(nanoseconds, _NANOSECONDS)
        value = _Itimerspec(it_value=_Timespec(tv_sec=seconds, tv_nsec=rest))
        if self._pid != os.getpid():  # guard: timer-forked
            # Its number may by chance be that of a timer that the child made itself.
            raise FatalError(
                subject=_SUBJECT, cause="belongs to the process that forked this one", hint=_BUG
            )
        with self._lock:
            if self._timer is None:
                return
            self._check(
                self._library.timer_settime(self._timer, _TIMER_ABSTIME, ctypes.byref(value), None)
            )

    @staticmethod
    def _check(result: int) -> None:
        if result != 0:
            code = ctypes.get_errno()
            raise FatalError(
                subject=_SUBJECT,
                cause=f"is refused by the kernel: {errno.errorcode.get(code, code)}",
                hint="Run it on Linux, in a container that allows POSIX timers",
            )


class _Sigevent(ctypes.Structure):
    """`struct sigevent`, alike in the kernel, glibc and musl: 64 bytes, three fields of a signal."""

    _fields_ = (
        ("sigev_value", ctypes.c_void_p),
        ("sigev_signo", ctypes.c_int),
        ("sigev_notify", ctypes.c_int),
        ("rest", ctypes.c_char * (_SIGEVENT_BYTES - ctypes.sizeof(ctypes.c_void_p) - 8)),
    )


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


def _library() -> Any:
    """The C library's timers, with their types declared: a pointer taken for an int would be cut."""
    if sys.platform != "linux":
        raise FatalError(
            subject=_SUBJECT, cause=f"cannot be had on {sys.platform}", hint="Run it on Linux"
        )
    # glibc before 2.34 has them in a library of their own. Asked by name alone, each answers with its
    # newest version, whose timer_t is a pointer, as musl's is.
    for name in (None, "librt.so.1"):
        try:
            library = ctypes.CDLL(name, use_errno=True)
            create, settime, delete = (
                library.timer_create,
                library.timer_settime,
                library.timer_delete,
            )
        except (OSError, AttributeError):
            continue
        create.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        settime.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        delete.argtypes = (ctypes.c_void_p,)
        return library
    raise FatalError(
        subject=_SUBJECT,
        cause="cannot be had: the C library has no timer_create",
        hint="Run it with glibc or musl",
    )
