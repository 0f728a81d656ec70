"""The command `rowvec`: its subcommands are in `flows.commands`."""

import signal
import sys

import typer
from rich.markup import escape

from flows.commands import check, dead_letters, demo, health, run, search
from flows.commands.options import (
    error_console,
    exit_code,
    write_in_any_encoding,
)
from operators.errors import RowvecError

app = typer.Typer(
    name="rowvec",
    help="Keeps Milvus collections equal to SQL tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(run.run)

app.command()(check.check)

app.command()(search.search)

app.command()(demo.demo)

app.add_typer(health.health, name="health")

app.add_typer(dead_letters.dead_letters, name="dead-letters")


def main() -> None:
    """Entry point: run a command; print every expected error as a message instead of a traceback."""
    write_in_any_encoding()
    # A shell script starts its background jobs (`rowvec run &`) with SIGINT ignored. The flow handles
    # SIGINT once it is up, and must not lose one that comes before that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except RowvecError as error:
        error_console().print(
            f"[bold red]rowvec:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
