"""Options, exit codes and output that several commands share."""

import json
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from operators.errors import ContractError, RowvecError
from operators.printable import LogFormatter, json_printable, printable

EXIT_FAILED = 1

EXIT_CONTRACT = 2

ContractOption = Annotated[
    Path | None,
    typer.Option("--contract", "-c", help="The contract; rowvec.toml or $ROWVEC_CONTRACT."),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")]


def exit_code(error: RowvecError) -> int:
    """The exit code of a command that ends with this error."""
    return EXIT_CONTRACT if isinstance(error, ContractError) else EXIT_FAILED


def error_console() -> Console:
    """A console on standard error."""
    return Console(stderr=True)


def write_in_any_encoding() -> None:
    """Escape what the encoding of standard output or error cannot write, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # whatever stands in for it
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def shown(text: str) -> str:
    """Text for a console with markup: its control characters and its markup are escaped."""
    return escape(printable(text))


def mark(console: Console, *, good: bool) -> str:
    """The mark in front of a result, in markup; a word where the encoding has no ✓."""
    signs = ("✓", "✗") if console.encoding.startswith("utf") else ("ok", "FAILED")
    return f"[green]{signs[0]}[/]" if good else f"[bold red]{signs[1]}[/]"


def print_json(value: Any) -> None:
    """Print JSON for a machine on standard output, in characters that it can write."""
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    typer.echo(json_printable(json.dumps(value, ensure_ascii=ascii_only)))


def set_up_log(console: Console, *, verbose: bool) -> None:
    """Write the log to standard error: formatted on a terminal, else as plain lines with a time."""
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, rich_tracebacks=False)
        handler.setFormatter(LogFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = logging.DEBUG if verbose else logging.INFO
    for name in ("rowvec", "operators", "flows"):
        logging.getLogger(name).setLevel(level)
