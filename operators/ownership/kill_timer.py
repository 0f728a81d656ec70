"""A kernel timer that ends this process with SIGKILL when its lease runs out.

Two writers must never overlap, and a check before each write cannot ensure that: a process can be
frozen between the check and the write for longer than any lease, and writes when it is resumed. So
the kernel enforces the end of a lease. Its timer sends SIGKILL, which ends a stopped process as well,
and ends a process of a frozen group before that runs another instruction. The clock is
CLOCK_BOOTTIME: it runs on while the machine is suspended, and cannot be set.

A request that already lies in the kernel's socket buffer may still be sent after the SIGKILL.
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
    """Has the kernel end this process at a given moment, running or stopped, unless it is moved.

    Threads may share it: the lease thread arms it, and whichever thread finishes the last write of a
    closed gate disarms it; a lock guards the timer's handle. The timer belongs to the process that
    made it: a forked child does not inherit it, and its calls are refused.

    Raises:
        FatalError: There is no such timer: this is not Linux, its kernel refuses, or the process is
            process 1 of its container, which no signal from inside it can end.
    """

    def __init__(self) -> None:
        if os.getpid() == _INIT:  # guard: timer-first-process
            # The kernel drops signals to the first process of a PID namespace unless that handles
            # them or they come from outside; SIGKILL from a timer of its own is dropped as well.
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
        """Be killed at this moment; replaces the moment that was given before.

        Args:
            at: Seconds of CLOCK_BOOTTIME. A moment in the past kills at once.

        Raises:
            FatalError: `at` is not a finite number, or the kernel refuses.
        """
        if not math.isfinite(at):
            raise FatalError(subject=_SUBJECT, cause="was given no moment", hint=_BUG)
        # Rounded down: to be killed early is safe. Zero would disarm the timer, so 1 is the least.
        self._set(max(1, math.floor(min(at, _LATEST) * _NANOSECONDS)))

    def disarm(self) -> None:
        """Do not be killed, until `arm` is called again."""
        self._set(0)

    def close(self) -> None:
        """Disarm and delete the timer; every later call does nothing."""
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
            # The handle could by chance be that of a timer which the child made itself.
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
    """`struct sigevent`: 64 bytes in the kernel, glibc and musl alike, of which 16 are used here."""

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
    """The C library's timer functions with declared types, or ctypes would truncate pointers to int."""
    if sys.platform != "linux":
        raise FatalError(
            subject=_SUBJECT, cause=f"cannot be had on {sys.platform}", hint="Run it on Linux"
        )
    # glibc before 2.34 has them in librt. Without a version, the look-up returns the newest one, whose
    # timer_t is a pointer, as in musl.
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
