"""The command `rowvec`. Every command imports what it needs, so that `health` stays cheap."""

import json
import logging
import signal
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from flows.process import first_process
from operators.errors import ContractError, RowvecError

app = typer.Typer(
    name="rowvec",
    help="Keeps Milvus collections equal to SQL tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

health = typer.Typer(help="For liveness and readiness probes.", no_args_is_help=True)

app.add_typer(health, name="health")

dead_letters = typer.Typer(
    help="Records that could not be applied: what there is, and sending them again.",
    no_args_is_help=True,
)

app.add_typer(dead_letters, name="dead-letters")

EXIT_FAILED = 1

EXIT_CONTRACT = 2

ContractOption = Annotated[
    Path | None,
    typer.Option("--contract", "-c", help="The contract; rowvec.toml or $ROWVEC_CONTRACT."),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")]

TableOption = Annotated[
    list[str] | None, typer.Option("--table", help="Only of this table; can be given again.")
]

StageOption = Annotated[
    list[str] | None,
    typer.Option("--stage", help="Only those that this step refused; can be given again."),
]


def _accept(situation: str) -> Any:
    return typer.Option(help=f"Go on, once: {situation}", rich_help_panel="Going on without")


VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Tell more in the log.")]


def main() -> None:
    """Entry point: run a command; print every expected error as a message instead of a traceback."""
    try:
        app()
    except RowvecError as error:
        _errors().print(
            f"[bold red]rowvec:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(EXIT_CONTRACT if isinstance(error, ContractError) else EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


@app.command()
def run(
    contract: ContractOption = None,
    exit_at_end: Annotated[
        bool, typer.Option("--exit-at-end", help="End when the topics are read to their end.")
    ] = False,
    process_id: Annotated[
        int,
        typer.Option("--process-id", "-i", envvar="BYTEWAX_PROCESS_ID", help="Of this process."),
    ] = 0,
    addresses: Annotated[
        str,
        typer.Option(
            "--addresses",
            "-a",
            envvar="BYTEWAX_ADDRESSES",
            help="host:port of every process of the flow, `;` between them.",
        ),
    ] = "",
    accept_lost_state: Annotated[
        bool, _accept("There is no recovery state for a collection that was filled.")
    ] = False,
    accept_older_state: Annotated[
        bool, _accept("The recovery state is older than what the collection has seen.")
    ] = False,
    accept_other_contract: Annotated[
        bool, _accept("The contract says something else than the one that filled the collection.")
    ] = False,
    accept_other_collection: Annotated[
        bool,
        _accept("The collection was made anew, or restored, since the recovery state was made."),
    ] = False,
    accept_recreated_topic: Annotated[
        bool, _accept("The topic is not the one that was read.")
    ] = False,
    accept_missed_records: Annotated[
        bool, _accept("Retention has removed records that were not read.")
    ] = False,
    verbose: VerboseOption = False,
) -> None:
    """Run the flow until SIGTERM or Ctrl-C; both end it cleanly, and a restart replays nothing.

    Each --accept-… is for one start: what is lost is in the message that asks for it, and in
    docs/recovery.md.
    """
    first_process.work_in_a_child()
    # Before the imports, which take seconds: nothing has been read yet, so the process can just exit.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    console = _errors()
    _log(console, verbose=verbose)
    from flows import runtime, settings
    from flows.process.progress import Progress
    from operators.ownership.accept import Accept

    accepted = {
        Accept.LOST_STATE: accept_lost_state,
        Accept.OLDER_STATE: accept_older_state,
        Accept.OTHER_CONTRACT: accept_other_contract,
        Accept.OTHER_COLLECTION: accept_other_collection,
        Accept.RECREATED_TOPIC: accept_recreated_topic,
        Accept.MISSED_RECORDS: accept_missed_records,
    }
    process = settings.process_from_env()
    if process.heartbeat is not None:
        # A file left by an earlier container would make a probe think that this flow is alive.
        process.heartbeat.unlink(missing_ok=True)
    runtime.arm(process)
    loaded = settings.load_contract(contract or process.contract)
    cluster = settings.cluster_from(process_id, addresses)
    logging.getLogger("rowvec").info("Checking Kafka, Milvus and the model")
    with Progress(console) as progress:
        runtime.run(
            loaded,
            cluster=runtime.Cluster(*cluster),
            heartbeat=process.heartbeat,
            exit_at_end=exit_at_end,
            readers=[progress.reader],
            accepted=process.accepted | {what for what, chosen in accepted.items() if chosen},
            on_ready=lambda: logging.getLogger("rowvec").info("Running"),
        )
    logging.getLogger("rowvec").info("Stopped cleanly; a restart replays nothing")


@app.command()
def check(contract: ContractOption = None, as_json: JsonOption = False) -> None:
    """Check the contract, recovery directory, Kafka, tables, Milvus, model and collections.

    It does what `run` does before its first message: collections and the dead-letter topic that are
    missing are created.
    """
    console = Console()
    _log(_errors(), verbose=False)
    from flows import settings
    from flows.process import preflight

    loaded = settings.load_contract(contract or settings.process_from_env().contract)
    opened = preflight.Opened()
    found: list[dict[str, str | bool]] = []
    for outcome in preflight.outcomes(loaded, opened):
        good = outcome.error is None
        found.append(
            {
                "check": outcome.name,
                "ok": good,
                "message": outcome.detail if good else str(outcome.error),
            }
        )
        if not as_json:
            mark = "[green]✓[/]" if good else "[bold red]✗[/]"
            console.print(
                f"{mark} {outcome.name:<12} {escape(str(found[-1]['message']))}", soft_wrap=True
            )
    if opened.store is not None:
        opened.store.close()
    if as_json:
        console.print_json(json.dumps(found))
    if not all(entry["ok"] for entry in found):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    contract: ContractOption = None,
    collection: Annotated[
        str | None, typer.Option(help="One collection; all of the contract by default.")
    ] = None,
    where: Annotated[
        str, typer.Option("--filter", help="A Milvus filter over the mirrored columns.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 5,
    as_json: JsonOption = False,
) -> None:
    """Embed a text with the contract's model and show the nearest rows."""
    _log(_errors(), verbose=False)
    from flows import settings
    from flows.search import Searcher

    loaded = settings.load_contract(contract or settings.process_from_env().contract)
    with closing(Searcher(loaded)) as searcher:
        hits = searcher.search(text, collection=collection, where=where, limit=limit)
    if as_json:
        rows = [
            {
                "id": hit.id,
                "table": hit.table,
                "score": hit.score,
                "text": hit.text,
                "columns": hit.columns,
                "version": hit.version,
            }
            for hit in hits
        ]
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    table = Table("score", "id", "text", box=None, pad_edge=False)
    for hit in hits:
        first = hit.text.strip().replace("\n", " ")
        shown = first if len(first) <= 100 else f"{first[:99]}…"
        table.add_row(f"{hit.score:.3f}", escape(hit.id), escape(shown))
    Console().print(table if hits else "Nothing found.")


@app.command()
def demo(
    rows: Annotated[
        int, typer.Option(min=100, max=20_000, help="Documentation texts to load.")
    ] = 2_000,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the stack running until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Watch a live PostgreSQL table become, and stay, a searchable collection.

    Starts PostgreSQL, Debezium, a Kafka-protocol broker and Milvus Lite from Python packages, on
    this machine's loopback; ends by itself and leaves nothing behind.
    """
    from flows.demo import run_demo

    run_demo(rows=rows, keep=keep, as_json=as_json)


@dead_letters.command("list")
def list_dead_letters(
    contract: ContractOption = None,
    table: TableOption = None,
    stage: StageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every dead letter: what it is about, why, and whether it is settled. Never its data."""
    _log(_errors(), verbose=False)
    from flows import settings
    from flows.replay.letters import path_of, read_letters, select

    loaded = settings.load_contract(contract or settings.process_from_env().contract)
    letters = select(
        read_letters(loaded.kafka), loaded, tables=tuple(table or ()), stages=tuple(stage or ())
    )
    names = {each.topic: each.name for each in loaded.tables}
    rows = [
        {
            "position": path_of(letter.position),
            "table": names.get(letter.position.topic, ""),
            "stage": letter.stage,
            "subject": letter.subject,
            "cause": letter.cause,
            "hint": letter.hint,
            "when": _moment(letter.when_ms),
            "status": letter.status,
        }
        for letter in letters
    ]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    shown = Table(box=None, pad_edge=False)
    for name in ("position", "table", "stage", "cause", "hint", "when", "status"):
        # A position is copied into a command, so it must not be cut.
        shown.add_column(name, overflow="fold")
    for row in rows:
        about = f"{row['subject']}: {row['cause']}"
        cells = [row[n] for n in ("position", "table", "stage")]
        cells += [about, *(row[n] for n in ("hint", "when", "status"))]
        shown.add_row(*map(escape, cells))
    Console().print(shown if rows else "There are no dead letters.")


@dead_letters.command("replay")
def replay_dead_letters(
    contract: ContractOption = None,
    table: TableOption = None,
    stage: StageOption = None,
    position: Annotated[
        list[str] | None,
        typer.Option("--position", help="Only that of topic/partition/offset; can be given again."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Send also what still fails, or cannot be proven to be the newest of its row; "
            "never what was overtaken.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would become of each, and send nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Send the records of open letters to their topics again, but for those that are overtaken.

    The running flow, restarted with the corrected contract, applies them like any other. Whatever
    else reads those topics sees the records once more. Exits with 0 if every letter was replayed or
    overtaken.
    """
    console = Console()
    _log(_errors(), verbose=False)
    from flows import settings
    from flows.replay.letters import path_of, position_from, read_letters, select
    from flows.replay.replay import SETTLED, Replay

    loaded = settings.load_contract(contract or settings.process_from_env().contract)
    chosen = select(
        read_letters(loaded.kafka),
        loaded,
        tables=tuple(table or ()),
        stages=tuple(stage or ()),
        positions=[position_from(path) for path in position or ()],
    )
    names = {each.topic: each.name for each in loaded.tables}
    found: list[dict[str, str]] = []
    good = True

    def tell(place: str, name: str, result: str, detail: str, *, settled: bool) -> None:
        found.append({"position": place, "table": name, "result": result, "detail": detail})
        if not as_json:
            mark = "[green]✓[/]" if settled else "[bold red]✗[/]"
            line = f"{place} {name} {result}" + (f": {detail}" if detail else "")
            console.print(f"{mark} {escape(line)}", soft_wrap=True, highlight=False)

    for letter in chosen:
        if letter.status != "open":
            tell(
                path_of(letter.position),
                names.get(letter.position.topic, ""),
                f"{letter.status} already",
                "",
                settled=True,
            )
    still_open = [letter for letter in chosen if letter.status == "open"]
    try:
        for outcome in Replay(loaded, force=force, dry_run=dry_run).run(still_open):
            settled = outcome.result in SETTLED
            good = good and settled
            tell(
                path_of(outcome.letter.position),
                names.get(outcome.letter.position.topic, ""),
                outcome.result,
                outcome.detail,
                settled=settled,
            )
    finally:
        # After an error, still print what was sent before it.
        if as_json:
            typer.echo(json.dumps(found, ensure_ascii=False))
    if not found and not as_json:
        console.print("There are no dead letters.")
    if not good:
        raise typer.Exit(EXIT_FAILED)


@health.command()
def ready() -> None:
    """Exit 0 once the flow has joined and made its first checkpoint."""
    if _heartbeat_age() is None:
        _unwell("no checkpoint yet")


@health.command()
def live(
    max_age: Annotated[
        float, typer.Option(help="Seconds since the last checkpoint that are still well.")
    ] = 360.0,
) -> None:
    """Exit 0 while checkpoints go on. It does not ask Milvus, whose outage a restart cannot mend."""
    age = _heartbeat_age()
    if age is None:
        _unwell("no checkpoint yet")
    if age > max_age:
        _unwell(f"the last checkpoint was {age:.0f} s ago")


def _heartbeat_age() -> float | None:
    import os

    name = os.environ.get("ROWVEC_HEARTBEAT_FILE")
    if not name:
        raise ContractError(
            subject="ROWVEC_HEARTBEAT_FILE",
            cause="is not set",
            hint="name the same file for `rowvec run` and for the probe",
        )
    try:
        return max(0.0, time.time() - Path(name).stat().st_mtime)
    except FileNotFoundError:
        return None


def _unwell(why: str) -> NoReturn:
    typer.echo(why, err=True)
    raise typer.Exit(EXIT_FAILED)


def _moment(ms: int | None) -> str:
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds")


def _errors() -> Console:
    return Console(stderr=True)


def _log(console: Console, *, verbose: bool) -> None:
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, rich_tracebacks=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = logging.DEBUG if verbose else logging.INFO
    for name in ("rowvec", "operators", "flows"):
        logging.getLogger(name).setLevel(level)


if __name__ == "__main__":
    main()
