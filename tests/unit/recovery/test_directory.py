"""The recovery directory: permissions, locks, and the states that a flow refuses to resume from."""

import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import pytest
from bytewax.recovery import RecoveryConfig
from hypothesis import example, given
from hypothesis import strategies as st

from flows.recovery import directory as module
from flows.recovery import files as files_module
from flows.recovery.directory import Recovery, check_directory, check_ready, fault_of
from flows.recovery.files import Part, behind
from operators.contract.sections import RecoverySection
from operators.errors import FatalError

FLOW = """
import sys
from datetime import timedelta
import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig
from bytewax.testing import TestingSink, run_main

directory, batches = sys.argv[1], int(sys.argv[2])

class Numbers(StatefulSourcePartition):
    def __init__(self, resumed):
        self.at = resumed or 0
        self.end = self.at + batches

    def next_batch(self):
        if self.at == self.end:
            raise StopIteration
        self.at += 1
        print(self.at, flush=True)
        return [(str(self.at % 10), self.at)]

    def snapshot(self):
        return self.at

class Source(FixedPartitionedSource):
    def list_parts(self):
        return ["one"]

    def build_part(self, step_id, name, resumed):
        return Numbers(resumed)

flow = Dataflow("flow")
stream = op.input("in", flow, Source())
stream = op.stateful_map("keep", stream, lambda state, value: (bytes(2000), value))
op.output("out", stream, TestingSink([]))
run_main(
    flow,
    epoch_interval=timedelta(0),
    recovery_config=RecoveryConfig(directory, timedelta(0)),
)
"""
"""A real flow in which every batch is an epoch."""

PARTS = 4


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


def test_the_keys_of_a_step_are_read_from_all_files(once, tmp_path):
    directory = tmp_path / "recovery"
    shutil.copytree(once, directory)
    recovery = Recovery(section(directory))
    before = sorted(path.name for path in directory.iterdir())
    assert recovery.keys_of("flow.in") == ["one"]
    assert recovery.keys_of("flow.out") == []
    assert sorted(path.name for path in directory.iterdir()) == before
    recovery.release()


@pytest.mark.parametrize(
    "refused", [0o750, 0o755, 0o711, 0o704, 0o770, 0o702, 0o777, 0o1777, 0o2770]
)
def test_a_directory_to_which_others_have_rights(directory, refused):
    directory.mkdir(parents=True)
    directory.chmod(refused)
    for refuse in (check_directory, check_ready, lambda d: Recovery(section(d))):
        with pytest.raises(
            FatalError, match=rf"others have rights to it \(mode {refused:04o}\)"
        ) as caught:
            refuse(directory)
        assert f"chmod 700 {directory}" in caught.value.hint
    assert list(directory.iterdir()) == []


def test_a_directory_that_was_closed_on_a_volume_with_a_group(directory):
    """As Kubernetes mounts it with `fsGroup`: what is in it is the group's, its folder ours alone."""
    directory.mkdir(parents=True)
    directory.parent.chmod(0o2770)
    directory.chmod(0o2700)
    Recovery(section(directory)).release()
    for path in directory.iterdir():
        path.chmod(0o660)
    check_directory(directory)
    Recovery(section(directory)).release()
    assert {mode(path) for path in directory.iterdir()} == {0o600}


def test_its_files_are_for_the_owner_alone(directory):
    before = os.umask(0o000)
    try:
        Recovery(section(directory)).release()
        assert mode(directory.parent) == 0o755
        assert {mode(path) for path in directory.iterdir()} == {0o600}
        run(directory, 3)
        assert {mode(path) for path in directory.iterdir()} == {0o600}
    finally:
        os.umask(before)


def test_files_that_an_earlier_release_left_open_are_closed(directory, caplog):
    Recovery(section(directory)).release()
    for path in directory.iterdir():
        path.chmod(0o644)
    with caplog.at_level("INFO"):
        Recovery(section(directory)).release()
    assert {mode(path) for path in directory.iterdir()} == {0o600}
    assert f"4 files in {directory} are no longer open to others" in caplog.text


def test_a_parent_in_which_anyone_can_replace_it(directory):
    directory.mkdir(parents=True, mode=0o700)
    directory.parent.chmod(0o777)
    for refuse in (check_directory, lambda d: Recovery(section(d))):
        with pytest.raises(FatalError, match="anyone can replace it") as caught:
            refuse(directory)
        assert f"chmod o-w {directory.parent}" in caught.value.hint
    directory.parent.chmod(0o1777)
    check_directory(directory)
    directory.parent.chmod(0o775)
    check_directory(directory)


def test_a_parent_that_is_the_root_of_a_volume(directory, monkeypatch):
    directory.mkdir(parents=True, mode=0o700)
    directory.parent.chmod(0o777)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == directory.parent)
    check_directory(directory)


def test_a_link_to_a_directory_that_anyone_can_replace(directory):
    (directory.parent / "open" / "real").mkdir(parents=True, mode=0o700)
    (directory.parent / "open").chmod(0o777)
    directory.symlink_to(directory.parent / "open" / "real")
    with pytest.raises(FatalError, match="anyone can replace it"):
        check_directory(directory)
    (directory.parent / "open").chmod(0o700)
    Recovery(section(directory)).release()


@pytest.mark.parametrize("lock", ["rowvec.lock", "rowvec.lock.0"])
@pytest.mark.parametrize("there", [True, False])
def test_a_lock_that_is_a_link_is_not_followed(directory, lock, there):
    victim = directory.parent / "victim"
    directory.mkdir(parents=True, mode=0o700)
    if there:
        victim.write_text("precious", "utf-8")
    (directory / lock).symlink_to(victim)
    with pytest.raises(FatalError, match="symbolic link") as caught:
        Recovery(section(directory))
    assert lock in caught.value.subject
    with pytest.raises(FatalError, match="symbolic link") as checked:
        check_directory(directory)
    assert str(checked.value) == str(caught.value)
    assert victim.exists() is there
    assert not there or victim.read_text("utf-8") == "precious"


def test_a_link_beside_the_locks_is_none_of_them(directory):
    directory.mkdir(parents=True, mode=0o700)
    for name in ("rowvec.lock.bak", "rowvec.locked"):
        (directory / name).symlink_to("nowhere")
    check_directory(directory)
    Recovery(section(directory)).release()


@pytest.mark.parametrize("taken", ["by a link to nowhere", "on a file system without files"])
def test_a_directory_that_cannot_be_created(directory, taken):
    directory.parent.mkdir(parents=True, exist_ok=True)
    if taken == "by a link to nowhere":
        directory.symlink_to("nowhere")
    else:
        directory = Path("/proc/rowvec/recovery")
    told = []
    for refuses in (check_directory, lambda each: Recovery(section(each))):
        with pytest.raises(FatalError, match="cannot be created") as caught:
            refuses(directory)
        told.append(str(caught.value))
    assert told[0] == told[1]


def test_a_check_of_a_directory_that_is_to_be_created_leaves_nothing(directory):
    before = sorted(directory.parent.parent.rglob("*"))
    check_directory(directory)
    assert sorted(directory.parent.parent.rglob("*")) == before


def test_a_lock_that_is_another_name_of_a_file_leaves_it_as_it_is(directory):
    directory.mkdir(parents=True, mode=0o700)
    victim = directory.parent / "victim"
    victim.write_text("precious", "utf-8")
    (directory / "rowvec.lock.0").hardlink_to(victim)
    Recovery(section(directory)).release()
    assert victim.read_text("utf-8") == "precious"


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
    # A directory in place of the lock file: opening it fails as on a read-only file system.
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
        "from flows.recovery.directory import Recovery\n"
        "from operators.contract.sections import RecoverySection\n"
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


@contextmanager
def running(directory: Path, batches: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", FLOW, str(directory), str(batches)],
        stdout=subprocess.PIPE,
        text=True,
    ) as flow:
        try:
            yield flow
        finally:
            flow.kill()


def run(directory: Path, batches: int) -> None:
    with running(directory, batches) as flow:
        assert flow.stdout is not None
        flow.stdout.read()
        assert flow.wait() == 0


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory on which a flow ran and ended cleanly."""
    directory = tmp_path_factory.mktemp("once") / "recovery"
    Recovery(section(directory, PARTS)).release()
    run(directory, 20)
    return directory


@pytest.fixture(scope="module")
def twice(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same directory after another run."""
    directory = tmp_path_factory.mktemp("twice") / "recovery"
    shutil.copytree(once, directory)
    run(directory, 20)
    return directory


@pytest.fixture
def used(twice: Path, directory: Path) -> Path:
    """A copy for one test of a directory on which a flow ran twice."""
    shutil.copytree(twice, directory)
    return directory


def contents(directory: Path) -> dict[str, bytes | None]:
    """Contents of all files except the locks and SQLite's shared memory."""
    return {
        path.name: path.read_bytes() if path.is_file() else None
        for path in directory.iterdir()
        if not path.name.startswith("rowvec.lock") and not path.name.endswith("-shm")
    }


def test_what_a_flow_left_is_resumed_from(used):
    before = contents(used)
    check_directory(used)
    check_ready(used)
    Recovery(section(used, PARTS)).release()
    # The check leaves no files behind.
    assert contents(used) == before


def test_another_number_of_partitions_than_the_contract_says_is_fine(used):
    Recovery(section(used, partitions=PARTS + 3)).release()
    assert len(parts(used)) == PARTS


def test_what_a_kill_left_is_resumed_from(directory):
    Recovery(section(directory, PARTS)).release()
    for _ in range(2):
        with running(directory, 100_000) as flow:
            assert flow.stdout is not None
            for _ in range(15):
                flow.stdout.readline()
            flow.kill()
        wal = directory / "part-0.sqlite3-wal"
        assert wal.stat().st_size > 0  # holds the last commits
        before = contents(directory)
        check_directory(directory)
        assert contents(directory).keys() == before.keys()
        (directory / "part-0.sqlite3-shm").unlink()  # as in a backup without it
        check_directory(directory)
    run(directory, 5)


def test_a_flow_that_is_running_is_not_taken_for_damage(directory):
    Recovery(section(directory, PARTS)).release()
    with running(directory, 1_000_000) as flow:
        assert flow.stdout is not None
        for _ in range(20):
            for _ in range(3):
                flow.stdout.readline()
            check_directory(directory)
        assert flow.poll() is None


@pytest.mark.parametrize("early_looks", [1, 2])
def test_what_is_committed_between_two_looks_is_not_taken_for_damage(
    used, monkeypatch, early_looks
):
    read = files_module._read
    looks = count(1)

    def read_early(path: Path) -> Part:
        """Read one part before the running flow commits again, and the others after that."""
        part = read(path)
        is_early = path.name == "part-0.sqlite3" and next(looks) <= early_looks
        return part._replace(epoch=3) if is_early else part

    monkeypatch.setattr(files_module, "_read", read_early)
    if early_looks == 1:
        check_directory(used)
    else:
        with pytest.raises(FatalError, match="it ends at epoch 3, and"):
            check_directory(used)


def remove(directory: Path, once: Path) -> None:
    (directory / "part-2.sqlite3").unlink()


def copy(directory: Path, once: Path) -> None:
    shutil.copy(directory / "part-2.sqlite3", directory / "part-2 (copy).sqlite3")


def copy_older(directory: Path, once: Path) -> None:
    shutil.copy(once / "part-2.sqlite3", directory / "backup.sqlite3")


def foreign(directory: Path, once: Path) -> None:
    Recovery(section(directory.parent / "foreign", PARTS - 1)).release()
    shutil.copy(directory.parent / "foreign" / "part-2.sqlite3", directory)


def text(directory: Path, once: Path) -> None:
    (directory / "part-2.sqlite3").write_text("not a database, but long enough\n" * 100, "utf-8")


def truncate(directory: Path, once: Path) -> None:
    path = directory / "part-2.sqlite3"
    os.truncate(path, path.stat().st_size // 8192 * 4096)


def truncate_inside_a_page(directory: Path, once: Path) -> None:
    path = directory / "part-2.sqlite3"
    os.truncate(path, path.stat().st_size - 100)


def overwrite(directory: Path, once: Path) -> None:
    with (directory / "part-2.sqlite3").open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"\xff" * 4096)


def overwrite_the_end(directory: Path, once: Path) -> None:
    """Damage a page of the states, which only a check of all pages finds."""
    with (directory / "part-2.sqlite3").open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(bytes(4096))


def empty(directory: Path, once: Path) -> None:
    os.truncate(directory / "part-2.sqlite3", 0)


def without_tables(directory: Path, once: Path) -> None:
    with closing(sqlite3.connect(directory / "part-2.sqlite3")) as database:
        database.execute("DROP TABLE snaps")


def without_its_number(directory: Path, once: Path) -> None:
    with closing(sqlite3.connect(directory / "part-2.sqlite3")) as database, database:
        database.execute("DELETE FROM parts")


def another_database(directory: Path, once: Path) -> None:
    with closing(sqlite3.connect(directory / "notes.sqlite3")) as database:
        database.execute("CREATE TABLE notes (note TEXT)")


def folder(directory: Path, once: Path) -> None:
    (directory / "old.sqlite3").mkdir()


def link(directory: Path, once: Path) -> None:
    path = directory / "part-2.sqlite3"
    path.rename(directory.parent / "elsewhere.sqlite3")
    path.symlink_to(directory.parent / "elsewhere.sqlite3")


def unused(directory: Path, once: Path) -> None:
    Recovery(section(directory.parent / "new", PARTS)).release()
    shutil.copy(directory.parent / "new" / "part-2.sqlite3", directory)


def without_its_log(directory: Path, once: Path) -> None:
    """A directory whose last commits are only in SQLite's log file, as a kill leaves it."""
    with running(directory, 100_000) as flow:
        assert flow.stdout is not None
        for _ in range(25):
            flow.stdout.readline()
        flow.kill()
    (directory / "part-2.sqlite3-wal").unlink()


Damage = Callable[[Path, Path], None]


@pytest.mark.parametrize(
    ("damage", "file", "cause"),
    [
        (remove, "part-2.sqlite3", "there is none with the number 2"),
        (copy, "part-2.sqlite3", r"part 2 is there twice, in part-2 \(copy\).sqlite3 as well"),
        (copy_older, "part-2.sqlite3", "part 2 is there twice, in backup.sqlite3 as well"),
        (foreign, "part-2.sqlite3", "it is part 2 of 3, and the others are parts of 4"),
        (text, "part-2.sqlite3", "it is damaged: file is not a database"),
        (truncate, "part-2.sqlite3", "it is damaged: "),
        (truncate_inside_a_page, "part-2.sqlite3", "it is damaged: "),
        (overwrite, "part-2.sqlite3", "it is damaged: "),
        (overwrite_the_end, "part-2.sqlite3", "it is damaged: "),
        (empty, "part-2.sqlite3", "it is empty"),
        (without_tables, "part-2.sqlite3", "it is no part of a recovery store"),
        (without_its_number, "part-2.sqlite3", "it is no part of a recovery store"),
        (another_database, "notes.sqlite3", "it is no part of a recovery store"),
        (folder, "old.sqlite3", "it is no regular file"),
        (link, "part-2.sqlite3", "it is no regular file"),
        (unused, "part-2.sqlite3", "it ends at epoch 0, and part-.* are copies of different times"),
        (without_its_log, "part-2.sqlite3", "it ends at epoch .* are copies of different times"),
    ],
)
def test_damage_is_told_with_the_file_and_both_ways_on(used, once, damage: Damage, file, cause):
    damage(used, once)
    before = contents(used)
    for refuse in (check_directory, check_ready, lambda d: Recovery(section(d, PARTS))):
        with pytest.raises(FatalError, match=cause) as caught:
            refuse(used)
        assert caught.value.subject == f"recovery directory {used}, {file}"
        assert any(word in caught.value.hint for word in ("put", "move", "take"))
        assert "an empty directory and start with `--accept-lost-state`" in caught.value.hint
        assert "rows that were deleted meanwhile may show again" in caught.value.hint
    assert contents(used) == before
    # The failed start has released its lock.
    shutil.rmtree(used)
    Recovery(section(used, PARTS)).release()


@pytest.mark.parametrize("number", range(PARTS))
def test_one_older_copy(used, once, number):
    shutil.copy(once / f"part-{number}.sqlite3", used)
    with pytest.raises(FatalError, match="they are copies of different times") as caught:
        check_directory(used)
    assert f"part-{number}.sqlite3" in caught.value.subject


def test_all_older_is_not_for_the_files_to_tell(once):
    check_directory(once)


def test_one_that_is_newer_than_all_others(twice, once, directory):
    shutil.copytree(once, directory)
    shutil.copy(twice / "part-3.sqlite3", directory)
    with pytest.raises(FatalError, match=r"part-3.sqlite3 at epoch \d+: they are copies"):
        check_directory(directory)


def test_a_file_that_this_user_may_not_write(used, monkeypatch):
    allowed = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, how: Path(path).name != "part-1.sqlite3-wal" and allowed(path, how),
    )
    (used / "part-1.sqlite3-wal").touch()
    (used / "part-1.sqlite3-wal").chmod(0o400)
    with pytest.raises(
        FatalError, match=r"this user cannot read and write it \(mode 0400\)"
    ) as caught:
        check_directory(used)
    assert "part-1.sqlite3-wal" in caught.value.subject
    assert "`--accept-lost-state`" in caught.value.hint


def test_a_directory_that_this_user_may_not_write(used, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, how: Path(path) != used)
    used.chmod(0o500)
    with pytest.raises(FatalError, match=r"cannot read and write it \(mode 0500\)") as caught:
        Recovery(section(used))
    used.chmod(0o700)
    assert f"chmod 700 {used}" in caught.value.hint


def test_a_file_of_another_user(used, monkeypatch):
    look = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        found = list(look(path))
        if path.name == "part-1.sqlite3":
            found[4] = 12_345
        return os.stat_result(found)

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(FatalError, match="it belongs to user id 12345") as caught:
        check_directory(used)
    assert "part-1.sqlite3" in caught.value.subject
    assert f"chown {os.geteuid()}" in caught.value.hint


def test_rights_of_others_to_a_file_are_nothing_where_they_cannot_enter(used):
    used.chmod(0o700)
    (used / "part-1.sqlite3").chmod(0o666)
    check_directory(used)


@contextmanager
def full_disk() -> Iterator[None]:
    """Simulate a full disk: nothing longer than a page can be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("refuse", [check_directory, lambda d: Recovery(section(d, PARTS))])
def test_a_full_disk(used, refuse):
    before = contents(used)
    with full_disk(), pytest.raises(FatalError, match=r"it cannot be written: .*large") as caught:
        refuse(used)
    assert "make room on its disk" in caught.value.hint
    assert contents(used) == before
    Recovery(section(used)).release()


def test_a_disk_that_is_full_at_the_first_start(directory):
    with full_disk(), pytest.raises(FatalError, match="it cannot be written"):
        Recovery(section(directory))
    assert contents(directory) == {}
    Recovery(section(directory)).release()


def test_a_creation_that_was_cut_off_is_done_again(directory):
    Recovery(section(directory, PARTS)).release()
    (directory / "part-0.sqlite3").unlink()
    (directory / "rowvec.new").mkdir()
    (directory / "rowvec.new" / "part-0.sqlite3").touch()
    check_directory(directory)
    with pytest.raises(FatalError, match="not all of them, and nothing ever ran on it"):
        check_ready(directory)
    Recovery(section(directory, PARTS - 2)).release()
    assert parts(directory) == ["part-0.sqlite3", "part-1.sqlite3"]
    check_ready(directory)
    assert not (directory / "rowvec.new").exists()


def test_bytewax_itself_creates_nothing(directory):
    for _ in range(2):
        with pytest.raises(FatalError, match="there are no recovery files") as caught:
            check_ready(directory)
        assert f"python -m bytewax.recovery {directory}" in caught.value.hint
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)


@given(
    size=st.integers(1, 5),
    executions=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=8),
    copied=st.tuples(st.integers(0, 7), st.integers(0, 4)),
)
@example(size=2, executions=[(0, 1), (0, 1)], copied=(0, 0))
def test_a_crash_leaves_no_part_behind_and_an_older_copy_does(size, executions, copied):
    """Random executions: each commits some epochs in all parts, the next in some parts, and dies."""
    epochs, began = [0] * size, set[int]()
    history = [list(epochs)]
    for whole, some in executions:
        resume = max(epochs) + 1
        began.add(resume)
        for epoch in range(resume, resume + whole):
            epochs = [epoch] * size
        for part in range(min(some, size)):
            epochs[part] = resume + whole
        history.append(list(epochs))
    first, index = copied[0] % len(history), copied[1] % size
    assert behind(files(epochs, began), files(epochs, began)) is None
    newer = next((n for n in count(history[first][index] + 2) if n not in began), None)
    epochs[index] = history[first][index]
    late = behind(files(epochs, began), files(epochs, began))
    assert newer is not None
    assert (late is not None) == (max(epochs) >= newer)
    if late is not None:
        assert late.epoch == min(epochs)


def files(epochs: list[int], began: set[int]) -> list[Part]:
    parts = [
        Part(Path(f"part-{i}.sqlite3"), i, len(epochs), epoch, frozenset(), used=True)
        for i, epoch in enumerate(epochs)
    ]
    return [parts[0]._replace(resumed=frozenset(began)), *parts[1:]]


def test_what_is_removed_or_replaced_under_a_running_flow(used):
    recovery = Recovery(section(used))
    recovery.check_intact()
    with (used / "part-1.sqlite3").open("ab") as file:
        file.write(b"")
    recovery.check_intact()
    part = used / "part-1.sqlite3"
    aside = used.parent / "aside"
    part.rename(aside)
    for _ in range(2):  # first removed, then replaced
        with pytest.raises(FatalError, match="removed or replaced while the flow was") as caught:
            recovery.check_intact()
        assert "part-1.sqlite3" in caught.value.subject
        assert "`--accept-lost-state`" in caught.value.hint
        shutil.copy(aside, part)
    aside.rename(part)
    recovery.check_intact()
    used.rename(aside)
    with pytest.raises(FatalError):
        recovery.check_intact()
    aside.rename(used)
    recovery.check_intact()
    (used / "rowvec.lock.0").unlink()  # now another process could lock a new file
    with pytest.raises(FatalError, match="removed or replaced"):
        recovery.check_intact()
    recovery.release()


def test_fewer_processes_than_before_wait_for_the_others_to_end(directory):
    first, second = (Recovery(section(directory), number, 2) for number in (0, 1))
    first.release()
    with pytest.raises(FatalError, match="process 1 of this flow is still running on it") as caught:
        Recovery(section(directory), 0, 1)
    assert "stop all processes" in caught.value.hint
    Recovery(section(directory), 0, 2).release()
    second.release()
    Recovery(section(directory), 0, 1).release()


def test_the_identity_is_that_of_the_lock_file(directory):
    first = Recovery(section(directory), 0, 2)
    second = Recovery(section(directory), 1, 2)
    boot, device, inode = first.identity().split(":")
    found = (directory / "rowvec.lock.0").stat()
    assert (device, inode) == (str(found.st_dev), str(found.st_ino))
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    assert first.identity() != second.identity()
    assert first.identities() == (first.identity(),)
    known = first.identity(), second.identity()
    first.release()
    second.release()
    # Alone again, it takes over the locks of all processes that ran before.
    alone = Recovery(section(directory), 0, 1)
    assert alone.identities() == known
    alone.release()


def test_a_new_lock_file_is_another(directory):
    first = Recovery(section(directory))
    (directory / "rowvec.lock.0").unlink()
    second = Recovery(section(directory))
    assert first.identity() != second.identity()
    first.release()
    second.release()


def test_without_a_boot_id_nothing_is_proven(directory, monkeypatch):
    monkeypatch.setattr(module, "_BOOT_ID", directory / "nowhere")
    recovery = Recovery(section(directory))
    assert recovery.identity() != recovery.identity()
    recovery.release()


def panic(failure: str) -> RuntimeError:
    return RuntimeError(
        "(src/run.rs:292:17) panicked at src/recovery.rs:626:22:\n"
        f"called `Result::unwrap()` on an `Err` value: {failure}"
    )


@pytest.mark.parametrize(
    ("failure", "cause", "hint"),
    [
        (
            'SqliteFailure(Error { code: DiskFull, extended_code: 13 }, Some("database or disk is full"))',
            "a checkpoint could not be read or written: database or disk is full",
            "nothing is lost",
        ),
        (
            'SqliteFailure(Error { code: SystemIoFailure, extended_code: 778 }, Some("disk I/O error"))',
            "a checkpoint could not be read or written: disk I/O error",
            "nothing is lost",
        ),
        (
            "SqliteFailure(Error { code: ReadOnly, extended_code: 1544 }, None)",
            "a checkpoint could not be read or written: ReadOnly",
            "nothing is lost",
        ),
        (
            'SqliteFailure(Error { code: DatabaseCorrupt, extended_code: 11 }, Some("database disk image is malformed"))',
            "a file is damaged: database disk image is malformed",
            "--accept-lost-state",
        ),
    ],
)
def test_what_a_panic_about_the_files_means(failure, cause, hint):
    fault = fault_of(panic(failure))
    assert fault is not None
    assert fault.cause == cause
    assert hint in fault.hint
    assert "panicked" not in str(fault)


def test_a_file_that_cannot_be_opened():
    error = RuntimeError("(src/recovery.rs:342:51): Error opening recovery DB file")
    error.__cause__ = RuntimeError("unable to open database file")
    fault = fault_of(error)
    assert fault is not None
    assert fault.cause.endswith("unable to open database file")


def test_other_errors_are_not_about_the_files():
    assert fault_of(RuntimeError("error calling `next_batch`")) is None
    assert fault_of(panic("SomethingElse")) is None
