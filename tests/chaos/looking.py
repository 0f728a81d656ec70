"""Readers that read the collection over and over, with Strong consistency, during an attack."""

import threading
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from types import TracebackType
from typing import Self

from operators.errors import FatalError, RetriableError
from operators.milvus.store import MilvusStore
from tests.chaos.checker import Checker, Sight
from tests.integration.running import open_store

FIELDS = ("rv_version", "text", "size")


class Looker:
    """A reader with Strong consistency that reads until it is stopped.

    Args:
        name: For the evidence.
        uri: Address of Milvus.
        collection: May not exist yet.
        checker: Checks what it reads.
        asked: Ids to read; None for all rows.
        pause_s: Pause between two reads.
    """

    def __init__(
        self,
        name: str,
        uri: str,
        collection: str,
        checker: Checker,
        asked: Sequence[str] | None,
        pause_s: float,
    ) -> None:
        self.looks = 0
        self._name, self._uri, self._collection = name, uri, collection
        self._checker, self._asked, self._pause_s = checker, asked, pause_s
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raise the error that ended the reader, if any."""
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            with closing(open_store(self._uri)) as store:
                while not self._stop.wait(self._pause_s):
                    # Reads fail until the collection is created and loaded.
                    with suppress(RetriableError, FatalError) if not self.looks else nullcontext():
                        began = time.monotonic()
                        rows = look(store, self._collection, self._asked)
                        self._checker.look(self._name, rows, began, time.monotonic(), self._asked)
                        self.looks += 1
        except BaseException as error:
            self._failed = error


def look(store: MilvusStore, collection: str, asked: Sequence[str] | None) -> list[Sight]:
    """One complete answer of Milvus; duplicate entities in it are kept, so that they can be found."""
    if asked is None:
        found = store._client.query(collection, "", ["id", *FIELDS])
    else:
        found = list(store._client.get(collection, asked, ["id", *FIELDS]))
    return [Sight(row["id"], row["rv_version"], row["text"], row["size"]) for row in found]
