"""`rowvec health ready` and `live`: probes, which must not import anything heavy."""

import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from flows.commands.options import EXIT_FAILED
from operators.errors import ContractError

health = typer.Typer(help="For liveness and readiness probes.", no_args_is_help=True)


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
        # Without its sign: a time in the future is one from before the clock was set back, and nothing
        # was written since.
        return abs(time.time() - Path(name).stat().st_mtime)
    except FileNotFoundError:
        return None


def _unwell(why: str) -> NoReturn:
    typer.echo(why, err=True)
    raise typer.Exit(EXIT_FAILED)
