"""`rowvec demo`: a live PostgreSQL table becomes, and stays, a searchable Milvus collection."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flows.embedded.corpus import Docstring, stdlib
from flows.embedded.demo_tables import fill, write_contract
from flows.embedded.milvus_lite import MilvusLiteServer
from flows.embedded.packages import import_path
from flows.embedded.process import Child
from flows.embedded.stack import Stack
from flows.settings import load_contract
from operators.changes.text_hash import text_hash
from operators.codec.row_keys import KeyMaker
from operators.errors import FatalError
from operators.milvus.store import MilvusStore
from operators.store.protocol import Hit, Stored, entity_id

if TYPE_CHECKING:
    from operators.model.transformer import TransformerEmbedder


PREFIX = "demo"

PARTITIONS = 2

LOAD_SECONDS = 600.0

CHANGE_SECONDS = 60.0


@dataclass(slots=True)
class Summary:
    """What the demo did; printed with `--json`.

    Attributes:
        freshness_s: Seconds from the commit of each live change until a Strong read saw it.
    """

    rows_loaded: int = 0
    load_s: float = 0.0
    freshness_s: dict[str, float] = field(default_factory=dict)
    searches: list[dict[str, str]] = field(default_factory=list)
    rows_compared: int = 0
    vectors_compared: int = 0
    equal: bool = False
    seconds: float = 0.0


def run_demo(*, rows: int, keep: bool, as_json: bool) -> None:
    """Run the demo; everything it starts has ended when this returns or raises.

    Args:
        rows: How many documentation texts to load.
        keep: After the summary, keep the stack running until Ctrl-C.
        as_json: Print the summary as JSON on standard output, and everything else on standard error.

    Raises:
        FatalError: A part did not start, or SQL and Milvus differ.
        SystemExit: SIGTERM, before anything was started.
    """
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=as_json, highlight=False, width=120)
    started = time.monotonic()
    try:
        with ExitStack() as cleanup:
            summary = _Demo(console, cleanup, rows, keep=keep).run()
    except (KeyboardInterrupt, SystemExit) as ending:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        console.print("\nStopped; nothing is left running.")
        _leave(128 + signal.SIGINT if isinstance(ending, KeyboardInterrupt) else ending.code)
    summary.seconds = round(time.monotonic() - started, 1)
    if as_json:
        print(json.dumps(asdict(summary)))
    if not summary.equal:
        raise FatalError(
            subject="demo", cause="SQL and Milvus differ", hint="this is a defect: please report it"
        )
    console.print(
        f"[dim]{summary.vectors_compared} vectors made again and compared; "
        f"{summary.seconds:.0f} s in all; nothing is left running[/]"
    )
    console.print(
        f"[bold green]SQL and Milvus are equal:[/] {summary.rows_compared:,} rows compared"
    )


def _leave(code: int | str | None) -> NoReturn:
    """End the process now, although a thread may still be loading the model.

    Python waits for such a thread at its end, up to half a minute. All children have ended, and all
    files are removed, so there is nothing to wait for.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


class _Demo:
    def __init__(self, console: Console, cleanup: ExitStack, rows: int, *, keep: bool) -> None:
        self._console = console
        self._cleanup = cleanup
        self._rows = rows
        self._keep = keep
        self._summary = Summary()

    def run(self) -> Summary:
        pool = ThreadPoolExecutor(2, thread_name_prefix="demo")
        self._cleanup.callback(pool.shutdown, wait=False, cancel_futures=True)
        # In threads, because both take seconds, as does starting the stack meanwhile.
        corpus = pool.submit(stdlib)
        searcher = pool.submit(_load_model)
        with self._step("PostgreSQL with logical replication, and a Kafka-protocol broker"):
            stack = self._cleanup.enter_context(Stack())
            self._connection = connection = stack.postgres.connect()
            self._cleanup.callback(connection.close)
        with self._step("Milvus Lite"):
            milvus = MilvusLiteServer(stack.directory / "milvus")
            milvus.start()
            self._cleanup.callback(milvus.stop)
        docs, modules = fill(connection, *corpus.result(), rows=self._rows)
        self._console.print(
            f"[green]✓[/] {len(docs):,} rows in docs (Python's own documentation), "
            f"{len(modules)} in modules"
        )
        path = write_contract(stack.directory, stack.broker.bootstrap_servers, milvus.uri)
        self._contract = load_contract(path)
        with self._step("rowvec run, and Debezium in Kafka Connect"):
            for table in self._contract.tables:
                stack.broker.create_topic(table.topic, PARTITIONS)
            self._flow = self._start_flow(stack.directory, path)
            stack.start_connect(["public.docs", "public.modules"], topic_prefix=PREFIX)
        self._embedder = searcher.result()
        self._store = MilvusStore(self._contract.milvus)
        self._cleanup.callback(self._store.close)
        self._load(len(docs), len(modules))
        self._live_changes(docs)
        self._compare()
        if self._keep:
            self._wait(stack, milvus, path)
        return self._summary

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(what):
                yield
        else:
            yield
        took = time.monotonic() - started
        self._console.print(f"[green]✓[/] {what} [dim]({took:.1f} s)[/]")

    def _start_flow(self, directory: Path, contract: Path) -> Child:
        flow = Child(
            "rowvec",
            [sys.executable, "-m", "flows.cli", "run", "--contract", contract],
            directory=directory,
            env={"PYTHONPATH": import_path()},
            stop_seconds=30.0,
        )
        # Registered before start(), so that an interrupt in the middle of it ends the child.
        self._cleanup.callback(flow.stop)
        flow.start()
        return flow

    def _load(self, docs: int, modules: int) -> None:
        """Show progress until the collections hold every row of the initial snapshot."""
        wanted, started = docs + modules, time.monotonic()
        bar = Progress(
            TextColumn("  initial load"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        with bar:
            task = bar.add_task("load", total=wanted)

            def loaded() -> bool:
                # The flow creates the collections when it has passed its checks.
                count = sum(self._count(table.collection) for table in self._contract.tables)
                bar.update(task, completed=count)
                return count >= wanted

            self._flow.wait_until(loaded, LOAD_SECONDS)
        took = time.monotonic() - started
        self._summary.rows_loaded = wanted
        self._summary.load_s = round(took, 1)
        self._console.print(
            f"[green]✓[/] initial load: {wanted:,} rows embedded and searchable "
            f"[dim]({took:.1f} s, with the start of the flow)[/]"
        )

    def _count(self, collection: str) -> int:
        try:
            return self._store.count(collection)
        except FatalError:
            return 0

    def _live_changes(self, docs: list[Docstring]) -> None:
        doomed, edited = self._findable(docs, len(docs) // 3), len(docs) // 2
        queries = {
            "keep a vector store equal to a SQL table": "insert",
            "when can a customer get the money back?": "update of the text",
            docs[doomed - 1].doc.partition("\n")[0]: "delete",
        }
        before = {query: self._best(query) for query in queries}
        policy = "Refunds: customers get their money back within 30 days of the purchase."
        self._change(
            "insert",
            "insert into docs values (900001, 'rowvec', 'rowvec', 'module', "
            "'Keeps Milvus vector collections equal to SQL tables.')",
            (),
            lambda stored: stored(900001) is not None,
        )
        self._change(
            "update of the text",
            "update docs set name = 'policy', doc = %s where id = %s",
            (policy, edited),
            lambda stored: _hash(stored(edited)) == text_hash(f"policy\n{policy}"),
        )
        earlier = self._stored(edited + 1)
        self._change(
            "update that leaves the text",
            "update docs set kind = 'moved' where id = %s",
            (edited + 1,),
            lambda stored: stored(edited + 1) != earlier,
        )
        self._change(
            "key change",
            "update docs set id = 900002 where id = %s",
            (edited + 2,),
            lambda stored: stored(edited + 2) is None and stored(900002) is not None,
        )
        self._change(
            "delete",
            "delete from docs where id = %s",
            (doomed,),
            lambda stored: stored(doomed) is None,
        )
        shown = Table("search", "before", "after", box=None, padding=(0, 2, 0, 0))
        for query, change in queries.items():
            after = self._best(query)
            self._summary.searches.append(
                {"query": query, "change": change, "before": before[query], "after": after}
            )
            shown.add_row(escape(query), escape(before[query]), escape(after))
        self._console.print(shown)

    def _change(
        self,
        what: str,
        statement: LiteralString,
        values: tuple[str | int, ...],
        visible: Callable[[Callable[[int], Stored | None]], bool],
    ) -> None:
        """Commit a change and wait until a Strong read sees it."""
        self._connection.execute(statement, values)
        committed = time.monotonic()
        self._flow.wait_until(lambda: visible(self._stored), CHANGE_SECONDS)
        fresh = time.monotonic() - committed
        self._summary.freshness_s[what] = round(fresh, 3)
        self._console.print(f"[green]✓[/] {what:<28} [dim]searchable {fresh:.2f} s after commit[/]")

    def _stored(self, row: int) -> Stored | None:
        table = self._contract.tables[0]
        id_ = entity_id(KeyMaker(table)({"id": row}))
        return self._store.stored(table.collection, [id_]).get(id_)

    def _findable(self, docs: list[Docstring], start: int) -> int:
        """The id of the first row at or after `start` that a search for its first line finds."""
        for row, doc in enumerate(docs[start : start + 100], start + 1):
            first = doc.doc.partition("\n")[0]
            if 30 <= len(first) <= 60 and self._hit(first).text == f"{doc.name}\n{doc.doc}":
                return row
        return start

    def _hit(self, query: str) -> Hit:
        vector = self._embedder.embed_queries([query])[0]
        return self._store.search("docs", vector, 1)[0]

    def _best(self, query: str) -> str:
        hit = self._hit(query)
        return f"{hit.text.partition(chr(10))[0]} ({hit.score:.2f})"

    def _compare(self) -> None:
        from flows.embedded.verify import compare

        with self._step("full scan of SQL and Milvus"):
            found = [
                compare(self._connection, table, self._store, self._embedder)
                for table in self._contract.tables
            ]
        for table, difference in zip(self._contract.tables, found, strict=True):
            for kind in ("missing", "surplus", "different", "wrong_vectors"):
                ids = getattr(difference, kind)
                if ids:
                    self._console.print(
                        f"[red]{table.name}: {len(ids)} {kind}: {escape(', '.join(ids[:5]))}[/]"
                    )
        self._summary.rows_compared = sum(d.rows for d in found)
        self._summary.vectors_compared = sum(d.sampled for d in found)
        self._summary.equal = all(d.equal for d in found)

    def _wait(self, stack: Stack, milvus: MilvusLiteServer, contract: Path) -> None:
        self._console.print(
            f"\nRunning until Ctrl-C:\n"
            f"  PostgreSQL  {stack.postgres.dsn}\n"
            f"  Kafka       {stack.broker.bootstrap_servers}\n"
            f"  Milvus      {milvus.uri}\n"
            f"  contract    {contract}\n"
            f'  try         rowvec search "parse a date" --contract {contract}\n',
            soft_wrap=True,
        )
        ended = threading.Event()
        before = signal.signal(signal.SIGINT, lambda *_: ended.set())
        try:
            while not ended.wait(0.5):
                self._flow.check()
        finally:
            signal.signal(signal.SIGINT, before)


def _hash(stored: Stored | None) -> str | None:
    return None if stored is None else stored.text_hash


def _load_model() -> "TransformerEmbedder":
    from operators.contract.sections import EmbeddingSection
    from operators.model.transformer import TransformerEmbedder

    return TransformerEmbedder(EmbeddingSection(model="sentence-transformers/all-MiniLM-L6-v2"))
