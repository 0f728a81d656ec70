"""The notes that a flow under attack writes about itself, so that a kill at any moment can be checked.

A note is one line of JSON, written by one `write` call before the action that it describes. A kill
right after leaves a complete line; a kill in the middle leaves a line without its newline. The hooks
wrap the Milvus client, the loading of recovery files and the loading of the model, and change nothing
in what these do.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson


class Write(NamedTuple):
    """One request that changes the collection.

    Attributes:
        rows: (entity id, version); the version of a delete is "".
        began: When it was sent, in seconds of the machine's monotonic clock.
        acked: When its answer came; None if the process was killed before.
    """

    delete: bool
    rows: list[tuple[str, str]]
    began: float
    acked: float | None


class Resume(NamedTuple):
    """Where a partition resumed: its next offset (-2: the beginning), and the epoch's record cap."""

    partition: int
    next: int
    cap: int


class Notes(NamedTuple):
    """All notes of one process.

    Attributes:
        model_s: Seconds that the loading of the model took; 0 if the model was not loaded.
        pending: Entity → its newest version in the recovery files, of a window that was still open.
    """

    model_s: float
    resumes: list[Resume]
    pending: dict[str, str]
    writes: list[Write]


def write_notes(path: Path, collection: str) -> None:
    """Make this process note what it does to a collection. Call it in a fresh fork, before it runs."""
    from flows.process import preflight
    from operators.milvus.client import Client
    from operators.stages.dedup import DedupLogic
    from operators.stages.epoch_budget import FIRST_CAP
    from operators.stages.partitions import PartitionedSource
    from operators.state import source_checkpoint
    from operators.state.dedup_checkpoint import unpack
    from operators.store.protocol import entity_id

    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(**what: Any) -> None:
        os.write(file, orjson.dumps({**what, "at": time.monotonic()}) + b"\n")

    def around(original: Callable[..., Any], noted: Callable[[Any], dict[str, Any]]) -> Any:
        def send(client: Client, name: str, items: Any, *rest: Any, **named: Any) -> Any:
            if name != collection:
                return original(client, name, items, *rest, **named)
            note(**noted(items))
            result = original(client, name, items, *rest, **named)
            note(acked=True)
            return result

        return send

    def upserted(rows: Any) -> dict[str, Any]:
        return {"upsert": [(row["id"], row["rv_version"]) for row in rows]}

    build_part, load_embedder = PartitionedSource.build_part, preflight.load_embedder
    restore = DedupLogic._restore

    def resumed(source: Any, step_id: str, for_part: str, state: Any) -> Any:
        next_, cap = -2, FIRST_CAP
        if state is not None:
            record = source_checkpoint.read(state, for_part)
            next_, cap = record["next_offset"], record["epoch_records"]
        note(resume=int(for_part.rpartition("/")[2]), next=next_, cap=cap)
        return build_part(source, step_id, for_part, state)

    def restored(logic: Any, record: Any) -> None:
        pending = [(entity_id(row.row_key), row.version) for row in map(unpack, record["pending"])]
        if pending:
            note(pending=pending)
        restore(logic, record)

    def loaded(contract: Any) -> Any:
        began = time.monotonic()
        embedder = load_embedder(contract)
        note(model=time.monotonic() - began)
        return embedder

    hooks: list[tuple[Any, str, Any]] = [
        (Client, "upsert", around(Client.upsert, upserted)),
        (Client, "delete", around(Client.delete, lambda ids: {"delete": [(i, "") for i in ids]})),
        (PartitionedSource, "build_part", resumed),
        (DedupLogic, "_restore", restored),
        (preflight, "load_embedder", loaded),
    ]
    for where, name, hook in hooks:
        setattr(where, name, hook)


def has_written(path: Path) -> bool:
    """Whether any write of this process was acknowledged so far."""
    try:
        return b'"acked"' in path.read_bytes()
    except FileNotFoundError:
        return False


def read_notes(path: Path) -> Notes:
    """The notes of a process that has ended; it has one writing thread, as Milvus Lite requires."""
    model_s, resumes, writes = 0.0, list[Resume](), list[Write]()
    pending: dict[str, str] = {}
    text = path.read_bytes() if path.exists() else b""
    # The kill may have cut the last line short. The write that it announces was not sent; an answer
    # that it records counts as unknown.
    for line in text[: text.rfind(b"\n") + 1].splitlines():
        note = orjson.loads(line)
        match note:
            case {"model": seconds}:
                model_s = seconds
            case {"resume": partition}:
                resumes.append(Resume(partition, note["next"], note["cap"]))
            case {"pending": rows}:
                for entity, version in rows:
                    pending[entity] = max(version, pending.get(entity, ""))
            case {"acked": _}:
                writes[-1] = writes[-1]._replace(acked=note["at"])
            case {"upsert": rows} | {"delete": rows}:
                pairs = [(id_, version) for id_, version in rows]
                writes.append(Write("delete" in note, pairs, note["at"], None))
    return Notes(model_s, resumes, pending, writes)
