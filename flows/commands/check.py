"""`rowvec check`."""

import typer
from rich.console import Console

from flows.commands.options import (
    ContractOption,
    JsonOption,
    error_console,
    exit_code,
    mark,
    print_json,
    set_up_log,
    shown,
)
from operators.errors import RowvecError


def check(contract: ContractOption = None, as_json: JsonOption = False) -> None:
    """Check the contract, recovery directory, Kafka, tables, Milvus, model and collections.

    It does what `run` does before its first message: collections and the dead-letter topic that are
    missing are created.
    """
    console = Console()
    set_up_log(error_console(), verbose=False)
    from flows import exporters, settings
    from flows.process import preflight
    from flows.process.opened import Opened

    process = settings.process_from_env()
    loaded = settings.load_contract(contract or process.contract)
    settings.bytewax_cluster()  # what this and the next line refuse, `run` refuses, too
    exporters.exporters_from_env()
    opened = Opened(accepted=process.accepted)
    found: list[dict[str, str | bool | list[str]]] = []
    first: RowvecError | None = None  # `run` ends at this one
    for outcome in preflight.outcomes(loaded, opened):
        good = outcome.error is None
        first = first or outcome.error
        found.append(
            {
                "check": outcome.name,
                "ok": good,
                "message": outcome.detail if good else str(outcome.error),
                "warnings": list(outcome.warnings),
            }
        )
        if not as_json:
            text = shown(str(found[-1]["message"]))
            console.print(f"{mark(console, good=good)} {outcome.name:<12} {text}", soft_wrap=True)
            for warning in outcome.warnings:
                console.print(f"[yellow]![/] {outcome.name:<12} {shown(warning)}", soft_wrap=True)
    opened.close()
    if as_json:
        print_json(found)
    if first is not None:
        raise typer.Exit(exit_code(first))
