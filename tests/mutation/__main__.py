"""Takes one guard at a time out of a copy of the tree, and shows which test goes red.

A guard without which no test goes red is an error, and so is one without an anchor in the source.
Nothing is written to the tree itself.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from tests.mutation.anchors import anchors_in
from tests.mutation.guard import Guard
from tests.mutation.guards import GUARDS, ROOMS
from tests.mutation.mutations import mutated
from tests.mutation.origin import ELSEWHERE

TREE = Path(__file__).resolve().parents[2]

PARTS = ("operators", "flows", "tests", "pyproject.toml")

LIMIT_S = 300
"""For one run of pytest; a single test has less."""

TEST_LIMIT_S = 60

BROKEN = ("NameError", "UnboundLocalError", "SyntaxError", "ImportError", "ModuleNotFoundError")
"""What a mutation raises that is not a working program: a test that fails with it has seen nothing."""

T = TypeVar("T")
R = TypeVar("R")


class Located(NamedTuple):
    """A guard, and where it stands.

    Attributes:
        guard: The guard.
        file: The file of its anchor, from the root of the tree.
        line: The anchor's line.
    """

    guard: Guard
    file: str
    line: int

    @property
    def described(self) -> tuple[str, str, str]:
        """Its row in the table: name, place, and what it keeps true."""
        return self.guard.name, f"{self.file}:{self.line}", self.guard.holds


class Outcome(NamedTuple):
    """What pytest said of a selection.

    Attributes:
        red: The first test that failed; "" if none did.
        problem: Why this proves nothing; "" if it does.
        seconds: How long it took.
    """

    red: str
    problem: str
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if for every guard there is a test that goes red without it."""
    options = _options(arguments)
    try:
        guards = _located(options.guard, options.room)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.list:
        widths = _widths(guards)
        for guard in guards:
            print(_row(guard, widths))
        return 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rowvec-mutation-") as directory:
        place = Path(directory)
        whole = place / "whole"
        _copy_tree(whole)
        if not _is_green(whole, guards, options.jobs):
            return 1
        wrong = _remove_each(place, whole, guards, options.jobs)
    took = time.monotonic() - started
    print(f"\n{len(guards) - wrong} of {len(guards)} guards caught, in {took:.0f} s")
    return 1 if wrong else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--guard", metavar="NAME", help="this one alone")
    parser.add_argument("--room", choices=ROOMS, help="those of this package alone")
    parser.add_argument("--jobs", type=int, default=2, help="guards at a time (default: 2)")
    parser.add_argument("--list", action="store_true", help="name the guards and remove none")
    return parser.parse_args(arguments)


def _located(name: str | None, room: str | None) -> list[Located]:
    """The guards to take out, each with its place.

    Raises:
        ValueError: There is none of this name or in this room, or one has no anchor.
    """
    anchors = {anchor.name: anchor for anchor in anchors_in(TREE)}
    listed = GUARDS if room is None else ROOMS.get(room, ())
    wanted = [guard for guard in listed if name in (None, guard.name)]
    if not wanted:
        raise ValueError("there is no such guard; --list names all")
    lost = [guard.name for guard in wanted if guard.name not in anchors]
    if lost:
        raise ValueError(f"no '# guard: …' in the source for {', '.join(lost)}: keep the list up")
    return [Located(each, *anchors[each.name][1:]) for each in wanted]


def _is_green(whole: Path, guards: Sequence[Located], jobs: int) -> bool:
    """Whether the copy passes every selection as it is; otherwise red would prove nothing."""
    selections = list(dict.fromkeys(each.guard.tests for each in guards))
    print(f"The whole tree, by {len(selections)} selections of tests: ", end="", flush=True)
    outcomes = _parallel(lambda tests: _run(whole, tests, whole.parent), selections, jobs)
    bad = [
        f"{' '.join(tests)}: {outcome.problem or outcome.red}"
        for tests, outcome in zip(selections, outcomes, strict=True)
        if outcome.problem or outcome.red
    ]
    print("green\n" if not bad else "RED WITHOUT ANY MUTATION\n" + "\n".join(bad), flush=True)
    return not bad


def _remove_each(place: Path, whole: Path, guards: Sequence[Located], jobs: int) -> int:
    """Print the table; returns how many guards were not caught."""
    widths = _widths(guards)
    head = "  ".join(
        f"{c:<{w}}" for c, w in zip(("guard", "place", "what it keeps true"), widths, strict=True)
    )
    print(f"{head}  {'s':>4}  red")
    not_caught = []
    outcomes = _parallel(lambda guard: _removed(place, whole, guard), guards, jobs)
    for guard, outcome in zip(guards, outcomes, strict=True):
        what = f"ERROR: {outcome.problem}" if outcome.problem else outcome.red or "NOT CAUGHT"
        print(f"{_row(guard, widths)}  {outcome.seconds:4.1f}  {what}", flush=True)
        if outcome.problem or not outcome.red:
            not_caught.append(guard.guard.name)
    if not_caught:
        print("\nNOT CAUGHT: " + ", ".join(not_caught))
    return len(not_caught)


def _removed(place: Path, whole: Path, located: Located) -> Outcome:
    """What the guard's tests say without it."""
    guard = located.guard
    source = (whole / located.file).read_text()
    try:
        changed = mutated(source, guard.name, guard.mutation)
        compile(changed, located.file, "exec")
    except (ValueError, SyntaxError) as error:
        return Outcome("", str(error), 0.0)
    with _copied(whole, place / f"without-{guard.name}") as copy:
        target = copy / located.file
        target.write_text(changed)
        # Compiled files are told from stale ones by time and size alone, and both may be the same.
        for stale in target.parent.glob(f"__pycache__/{target.stem}.*"):
            stale.unlink()
        return _run(copy, guard.tests, place)


def _run(tree: Path, tests: Sequence[str], place: Path) -> Outcome:
    """Run some tests of a copy, with the modules of that copy, up to the first that fails."""
    handle, report = tempfile.mkstemp(".xml", dir=place)
    os.close(handle)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "tests.mutation.origin", f"--rootdir={tree}", f"--junit-xml={report}"]
    command += [f"--timeout={TEST_LIMIT_S}", "--hypothesis-seed=0", *tests]
    kept = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    started = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env={**kept, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return Outcome("", f"no end within {LIMIT_S} s", time.monotonic() - started)
    seconds = time.monotonic() - started
    red, problem = _judged(done.returncode, Path(report))
    if problem:
        problem += f": {(done.stdout + done.stderr).strip()[-400:]}"
    return Outcome(red, problem, seconds)


def _judged(status: int, report: Path) -> tuple[str, str]:
    """The test that failed, and why that, or that none did, is not to be believed.

    Only a test that ran and failed has caught anything: not one that could not be collected or set
    up, nor one in which the mutation turned out to be no program. What else a failed test leaves to
    complain about when it is torn down is of no interest.
    """
    if status == ELSEWHERE:
        return "", "modules from outside of the copy were tested"
    if status not in (0, 1):
        # 2 is what pytest says where tests cannot be collected.
        return "", f"pytest ended with {status}"
    cases = list(ET.parse(report).iter("testcase"))
    if not cases:
        return "", "no test ran"
    for case in cases:
        failure = case.find("failure")
        if failure is not None:
            name = f"{case.get('classname', '')}::{case.get('name', '')}"
            message = failure.get("message", "")
            if message.removeprefix("builtins.").startswith(BROKEN):
                return "", f"the mutation is broken: {message[:100]}"
            return name.removeprefix("tests."), ""
    return ("", "") if status == 0 else ("", "pytest failed, and no test did")


def _copy_tree(to: Path) -> None:
    to.mkdir()
    caches = shutil.ignore_patterns("__pycache__", ".*")
    for part in PARTS:
        if (TREE / part).is_dir():
            shutil.copytree(TREE / part, to / part, ignore=caches)
        else:
            shutil.copy2(TREE / part, to / part)


@contextmanager
def _copied(whole: Path, to: Path) -> Iterator[Path]:
    shutil.copytree(whole, to, ignore=shutil.ignore_patterns(".*"))
    try:
        yield to
    finally:
        shutil.rmtree(to)


def _parallel(call: Callable[[T], R], items: Sequence[T], jobs: int) -> Iterator[R]:
    """The results in the order of the items, each as soon as those before it are there."""
    with ThreadPoolExecutor(max(1, jobs)) as threads:
        yield from threads.map(call, items)


def _widths(guards: Sequence[Located]) -> list[int]:
    return [max(map(len, column)) for column in zip(*(g.described for g in guards), strict=True)]


def _row(guard: Located, widths: Sequence[int]) -> str:
    return "  ".join(f"{c:<{w}}" for c, w in zip(guard.described, widths, strict=True))


if __name__ == "__main__":
    sys.exit(main())
