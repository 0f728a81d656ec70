"""The limit of open files is raised to what the flow needs, or the start is refused."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from flows.process import open_files
from operators.contract.sections import KafkaSection
from operators.errors import FatalError
from operators.kafka.reader import KafkaReader

ROOT = Path(__file__).resolve().parents[3]


class Limits:
    """The limits of a process, as the kernel keeps them."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = soft, hard

    def getrlimit(self, _which: int) -> tuple[int, int]:
        return self.now

    def setrlimit(self, _which: int, limits: tuple[int, int]) -> None:
        assert limits[1] == self.now[1]
        self.now = limits


def limited(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> Limits:
    limits = Limits(soft, hard)
    for name in ("getrlimit", "setrlimit"):
        monkeypatch.setattr(resource, name, getattr(limits, name))
    return limits


def test_a_limit_that_is_enough_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = limited(monkeypatch, 1_024, 4_096)
    open_files.allow(partitions=24, brokers=3, recovery_files=8)
    assert limits.now == (1_024, 4_096)


@pytest.mark.parametrize("hard", [4_096, 1_048_576, resource.RLIM_INFINITY])
def test_a_soft_limit_is_raised_to_what_is_needed(
    hard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = limited(monkeypatch, 1_024, hard)
    open_files.allow(partitions=150, brokers=1, recovery_files=8)
    assert limits.now == (open_files.needed(150, 1, 8), hard)
    assert 1_300 < limits.now[0] < 1_600


@pytest.mark.parametrize(
    ("partitions", "brokers"), [(150, 1), (60, 6), (1_000, 3)], ids=["tables", "brokers", "many"]
)
def test_a_hard_limit_that_is_too_low_is_refused_with_the_number(
    partitions: int, brokers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = limited(monkeypatch, 1_024, 1_024)
    wanted = open_files.needed(partitions, brokers, 8)
    with pytest.raises(FatalError) as error:
        open_files.allow(partitions, brokers, 8)
    assert error.value.subject == "the limit of open files"
    assert (
        f"need {wanted:,} (brokers: {brokers:,}), and this process may open 1,024"
        in error.value.cause
    )
    assert f"ulimit -n {wanted}" in error.value.hint
    assert limits.now == (1_024, 1_024)


def test_an_infinite_limit_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    open_files.allow(10_000, 9, 1_024)


def test_the_kernel_takes_the_new_limit() -> None:
    program = (
        "import resource; from flows.process import open_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 900))\n"
        "open_files.allow(60, 1, 8)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= open_files.needed(60, 1, 8))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "True\n"


def test_a_reader_needs_no_more_than_is_counted() -> None:
    """Without a broker it has all of its pipes, and lacks a few connections."""
    section = KafkaSection(bootstrap_servers="127.0.0.1:1")
    before = len(os.listdir("/proc/self/fd"))
    readers = [KafkaReader(section, "t", n, 0, traced=False, needles=None) for n in range(10)]
    try:
        each = (len(os.listdir("/proc/self/fd")) - before) / 10
    finally:
        for reader in readers:
            reader.close()
    assert 3 <= each <= open_files.needed(2, 1, 0) - open_files.needed(1, 1, 0)
