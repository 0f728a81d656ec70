"""`rowvec search`."""

from contextlib import closing
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.commands.options import (
    ContractOption,
    JsonOption,
    error_console,
    print_json,
    set_up_log,
    shown,
)


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
    set_up_log(error_console(), verbose=False)
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
        print_json(rows)
        return
    table = Table("score", "id", "text", box=None, pad_edge=False)
    for hit in hits:
        first = hit.text.strip().replace("\n", " ")
        start = first if len(first) <= 100 else f"{first[:99]}…"
        table.add_row(f"{hit.score:.3f}", shown(hit.id), shown(start))
    Console().print(table if hits else "Nothing found.")
