"""`rowvec check`."""

import json

import typer
from rich.console import Console
from rich.markup import escape

from flows.commands.options import (
    EXIT_FAILED,
    ContractOption,
    JsonOption,
    error_console,
    set_up_log,
)


def check(contract: ContractOption = None, as_json: JsonOption = False) -> None:
    """Check the contract, recovery directory, Kafka, tables, Milvus, model and collections.

    It does what `run` does before its first message: collections and the dead-letter topic that are
    missing are created.
    """
    console = Console()
    set_up_log(error_console(), verbose=False)
    from flows import settings
    from flows.process import preflight

    loaded = settings.load_contract(contract or settings.process_from_env().contract)
    opened = preflight.Opened()
    found: list[dict[str, str | bool | list[str]]] = []
    for outcome in preflight.outcomes(loaded, opened):
        good = outcome.error is None
        found.append(
            {
                "check": outcome.name,
                "ok": good,
                "message": outcome.detail if good else str(outcome.error),
                "warnings": list(outcome.warnings),
            }
        )
        if not as_json:
            mark = "[green]✓[/]" if good else "[bold red]✗[/]"
            console.print(
                f"{mark} {outcome.name:<12} {escape(str(found[-1]['message']))}", soft_wrap=True
            )
            for warning in outcome.warnings:
                console.print(f"[yellow]![/] {outcome.name:<12} {escape(warning)}", soft_wrap=True)
    if opened.store is not None:
        opened.store.close()
    if as_json:
        console.print_json(json.dumps(found))
    if not all(entry["ok"] for entry in found):
        raise typer.Exit(EXIT_FAILED)
