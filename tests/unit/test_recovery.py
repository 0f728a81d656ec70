"""The recovery directory: who may write there, and how many may run on it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from bytewax.recovery import RecoveryConfig

from flows.recovery import Recovery, check_directory
from operators.contract import RecoverySection
from operators.errors import FatalError


def section(directory: Path, partitions: int = 2) -> RecoverySection:
    return RecoverySection(directory=directory, partitions=partitions)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def parts(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("part-*.sqlite3"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "recovery"


def test_it_is_created_for_its_owner_alone(directory):
    before = os.umask(0o000)
    try:
        recovery = Recovery(section(directory))
    finally:
        os.umask(before)
    assert mode(directory) == 0o700
    assert parts(directory) == ["part-0.sqlite3", "part-1.sqlite3"]
    assert isinstance(recovery.config(), RecoveryConfig)
    recovery.release()


def test_the_partition_files_are_made_once(directory):
    Recovery(section(directory)).release()
    before = {name: (directory / name).stat().st_ino for name in parts(directory)}
    Recovery(section(directory, partitions=5)).release()
    assert {name: (directory / name).stat().st_ino for name in parts(directory)} == before


@pytest.mark.parametrize("allowed", [0o700, 0o750, 0o755, 0o711])
def test_a_directory_that_others_may_read(directory, allowed):
    directory.mkdir(parents=True)
    directory.chmod(allowed)
    Recovery(section(directory)).release()
    assert mode(directory) == allowed


@pytest.mark.parametrize("refused", [0o770, 0o720, 0o702, 0o777, 0o1777])
def test_a_directory_that_others_may_write(directory, refused):
    directory.mkdir(parents=True)
    directory.chmod(refused)
    with pytest.raises(
        FatalError, match=rf"others can write to it \(mode {refused:04o}\)"
    ) as caught:
        Recovery(section(directory))
    assert f"chmod 700 {directory}" in caught.value.hint
    assert list(directory.iterdir()) == []


def test_a_directory_of_another_user(directory, monkeypatch):
    directory.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(FatalError, match=r"belongs to user id \d+, and this is user id 12345"):
        Recovery(section(directory))
    assert list(directory.iterdir()) == []


def test_a_directory_that_is_none(directory):
    directory.parent.mkdir()
    directory.write_text("", "utf-8")
    with pytest.raises(FatalError, match="it is no directory"):
        Recovery(section(directory))


def test_a_directory_inside_of_a_file(directory):
    directory.parent.write_text("", "utf-8")
    with pytest.raises(FatalError, match=r"recovery directory .*: it cannot be read"):
        Recovery(section(directory))


def test_a_directory_that_cannot_be_written(directory):
    # A read-only file system refuses the lock file as this directory in its place does.
    (directory / "rowvec.lock.0").mkdir(parents=True)
    directory.chmod(0o700)
    with pytest.raises(FatalError, match=r"recovery directory .*: it cannot be written") as caught:
        Recovery(section(directory))
    assert caught.value.hint


def test_one_that_is_not_there_yet_passes_the_check(directory):
    check_directory(directory)
    assert not directory.exists()


def test_a_second_one_is_refused_until_the_first_lets_go(directory):
    first = Recovery(section(directory))
    with pytest.raises(FatalError, match="process 0 of this flow is running on it already"):
        Recovery(section(directory))
    first.release()
    Recovery(section(directory)).release()


def test_each_process_of_a_cluster_has_a_lock_of_its_own(directory):
    first = Recovery(section(directory), 0)
    second = Recovery(section(directory), 1)
    with pytest.raises(FatalError, match="process 1 of this flow"):
        Recovery(section(directory), 1)
    first.release()
    with pytest.raises(FatalError, match="process 1 of this flow"):
        Recovery(section(directory), 1)
    second.release()


def test_a_process_that_died_holds_nothing(directory):
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from flows.recovery import Recovery\n"
        "from operators.contract import RecoverySection\n"
        "held = Recovery(RecoverySection(directory=Path(sys.argv[1]), partitions=2))\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FatalError, match="is running on it already"):
            Recovery(section(directory))
        other.kill()
        other.wait()
    Recovery(section(directory)).release()
