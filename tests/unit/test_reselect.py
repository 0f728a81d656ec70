"""What is refused before the database is asked."""

import pytest

from operators.contract import SourceSection
from operators.errors import RecordError
from operators.events import RowKey
from operators.reselect import Reselector
from operators.table import TableSection

TABLE = TableSection(topic="app.public.docs", collection="docs", key=("id",), text="{body}")


def test_a_masked_key_needs_no_connection_to_be_refused() -> None:
    masked = TableSection.model_validate({**TABLE.model_dump(), "masks": {"id": "hmac"}})
    section = SourceSection.model_validate({"dsn": "host=127.0.0.1 port=1"})
    with pytest.raises(RecordError, match="REPLICA IDENTITY FULL"):
        Reselector(section).select(masked, ("public", "docs"), RowKey("docs:00ff"), ["body"])
