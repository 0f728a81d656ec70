"""`rowvec dead-letters list` and `replay`."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.commands.options import (
    EXIT_FAILED,
    ContractOption,
    JsonOption,
    error_console,
    mark,
    print_json,
    set_up_log,
    shown,
)

dead_letters = typer.Typer(
    help="Records that could not be applied: what there is, and sending them again.",
    no_args_is_help=True,
)

TableOption = Annotated[
    list[str] | None, typer.Option("--table", help="Only of this table; can be given again.")
]

StageOption = Annotated[
    list[str] | None,
    typer.Option("--stage", help="Only those that this step refused; can be given again."),
]


@dead_letters.command("list")
def list_dead_letters(
    contract: ContractOption = None,
    table: TableOption = None,
    stage: StageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every dead letter: what it is about, why, and whether it is settled. Never its data."""
    set_up_log(error_console(), verbose=False)
    from flows import settings
    from flows.replay.dead_letters import path_of, read_letters, select

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
        print_json(rows)
        return
    listed = Table(box=None, pad_edge=False)
    for name in ("position", "table", "stage", "cause", "hint", "when", "status"):
        # A position is copied into a command, so it must not be cut.
        listed.add_column(name, overflow="fold")
    for row in rows:
        about = f"{row['subject']}: {row['cause']}"
        cells = [row[n] for n in ("position", "table", "stage")]
        cells += [about, *(row[n] for n in ("hint", "when", "status"))]
        listed.add_row(*map(shown, cells))
    Console().print(listed if rows else "There are no dead letters.")


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
    set_up_log(error_console(), verbose=False)
    from flows import settings
    from flows.replay.dead_letters import path_of, position_from, read_letters, select
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
            line = f"{place} {name} {result}" + (f": {detail}" if detail else "")
            console.print(
                f"{mark(console, good=settled)} {shown(line)}", soft_wrap=True, highlight=False
            )

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
            print_json(found)
    if not found and not as_json:
        console.print("There are no dead letters.")
    if not good:
        raise typer.Exit(EXIT_FAILED)


def _moment(ms: int | None) -> str:
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds")
