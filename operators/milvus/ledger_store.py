"""`LedgerStore` over Milvus: the entries are rows of a small collection, `rowvec_ledger`."""

import threading
from collections.abc import Mapping
from contextlib import nullcontext

from operators.contract.table import LEDGER
from operators.errors import FatalError
from operators.milvus.client import MAX_WINDOW, Client
from operators.milvus.ledger_rows import ledger_rows
from operators.milvus.rows import requests
from operators.milvus.schema import LEDGER_SHAPE, check_ledger_shape
from operators.store.protocol import Fence


class MilvusLedger:
    """The collection `rowvec_ledger`, created when it is first read or written.

    Threads may share it: the lease thread and the worker do. A lock lets one of them create it.

    Args:
        client: The vector store's connection; the vector store closes it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._opening = threading.Lock()
        self._open = False

    def read(self) -> dict[str, str]:
        """See `LedgerStore.read`."""
        self._ensure()
        # Usually one request is enough, and it is quick: a lease claim that takes long does not count.
        rows = self._client.query(LEDGER, "", ["id", "body"], window=True)
        if len(rows) >= MAX_WINDOW:
            rows = [row for page in self._client.pages(LEDGER, ["body"]) for row in page]
        return {str(row["id"]): str(row["body"]) for row in rows}

    def write(self, entries: Mapping[str, str], fence: Fence = nullcontext) -> None:
        """See `LedgerStore.write`."""
        rows = ledger_rows(entries)
        self._ensure()
        for some in requests(rows):
            self._client.upsert(LEDGER, some, FatalError, fence)

    def _ensure(self) -> None:
        """At the first call, create or complete the collection and check it."""
        with self._opening:
            if not self._open:
                found = self._client.make_collection(LEDGER, LEDGER_SHAPE)
                check_ledger_shape(self._client.about(LEDGER), found)
                self._client.load(LEDGER)
                self._open = True
