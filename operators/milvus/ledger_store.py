"""`LedgerStore` over Milvus: a small collection of its own, beside those that it tells about."""

import threading
from collections.abc import Mapping

from operators.contract.table import LEDGER
from operators.errors import FatalError
from operators.milvus.client import MAX_WINDOW, Client
from operators.milvus.rows import ledger_rows, requests
from operators.milvus.schema import LEDGER_SHAPE, check_ledger_shape


class MilvusLedger:
    """The collection `rowvec_ledger`, created when it is first read or written. Safe to share.

    Args:
        client: Shared with the collections, and closed by who opened it. Every request has its
            deadline.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._opening = threading.Lock()
        self._open = False

    def read(self) -> dict[str, str]:
        """See `LedgerStore.read`."""
        self._ensure()
        # One request is enough as a rule; how long a claim takes decides whether it counts.
        rows = self._client.query(LEDGER, "", ["id", "body"], window=True)
        if len(rows) >= MAX_WINDOW:
            rows = [row for page in self._client.pages(LEDGER, ["body"]) for row in page]
        return {str(row["id"]): str(row["body"]) for row in rows}

    def write(self, entries: Mapping[str, str]) -> None:
        """See `LedgerStore.write`."""
        rows = ledger_rows(entries)
        self._ensure()
        for some in requests(rows):
            self._client.upsert(LEDGER, some, FatalError)

    def _ensure(self) -> None:
        """Create or complete the collection and check it, once."""
        with self._opening:
            if not self._open:
                found = self._client.make_collection(LEDGER, LEDGER_SHAPE)
                check_ledger_shape(self._client.about(LEDGER), found)
                self._client.load(LEDGER)
                self._open = True
