"""Look-ups that are refused without a query."""

import pytest

from operators.changes.row_key import RowKey
from operators.contract.sections import SourceSection
from operators.contract.table import TableSection
from operators.errors import RecordError
from operators.postgres.reselect import Reselector

TABLE = TableSection(topic="app.public.docs", collection="docs", key=("id",), text="{body}")


def test_a_masked_key_needs_no_connection_to_be_refused() -> None:
    masked = TableSection.model_validate({**TABLE.model_dump(), "masks": {"id": "hmac"}})
    section = SourceSection.model_validate({"dsn": "host=127.0.0.1 port=1"})
    with pytest.raises(RecordError, match="REPLICA IDENTITY FULL"):
        Reselector(section).select(masked, ("public", "docs"), RowKey("docs:00ff"), ["body"])
