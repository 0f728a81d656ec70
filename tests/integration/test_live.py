"""A short live run: changes of all kinds while Debezium and the flow are killed.

The long run is started by hand; README.md of tests/ has its command and figures.
"""

from pathlib import Path

import pytest

from tests.live.run import Settings, run

pytestmark = pytest.mark.integration

CHANGES = 3_000
SELDOM = {"truncate", "truncate of two", "alter table", "key swap"}


@pytest.mark.timeout(900)
def test_whatever_happens_milvus_ends_as_sql_is(tiny_model: Path) -> None:
    outcome = run(Settings(changes=CHANGES, seed=65, rows=100, rate=300.0, model=tiny_model))
    print(outcome.line())
    assert outcome.violations == []
    assert outcome.figures["changes"] >= CHANGES
    assert outcome.figures["changes_by_kind"].keys() >= SELDOM
