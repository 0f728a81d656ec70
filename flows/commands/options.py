"""Options, exit codes and output that several commands share."""

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

EXIT_FAILED = 1

EXIT_CONTRACT = 2

ContractOption = Annotated[
    Path | None,
    typer.Option("--contract", "-c", help="The contract; rowvec.toml or $ROWVEC_CONTRACT."),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")]


def error_console() -> Console:
    """A console on standard error."""
    return Console(stderr=True)


def set_up_log(console: Console, *, verbose: bool) -> None:
    """Write the log to standard error: formatted on a terminal, else as plain lines with a time."""
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
