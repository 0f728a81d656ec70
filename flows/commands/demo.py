"""`rowvec demo`."""

from typing import Annotated

import typer

from flows.commands.options import JsonOption


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
