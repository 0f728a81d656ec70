"""The benchmark of the state measures a flow whose version map knows the rows; no figure is checked."""

import pytest
from bytewax.recovery import init_db_dir

from benchmarks.known_rows import Load, empty_maps, enter, fill, resume
from operators.changes.row_key import RowKey
from operators.changes.shards import shard_of

LOAD = Load(rows=500, per_s=2_000.0, epochs=2, seconds=0.1)


def test_every_row_is_known_and_needs_no_look_up():
    maps = empty_maps()
    enter(maps, range(500))
    key = RowKey("docs:123")
    versions = maps[shard_of(key)]
    assert versions.get(key) is not None
    assert not versions.must_look_up(key)
    assert sum(map(len, maps.values())) == 500


def test_a_flow_resumes_with_the_rows_that_were_filled_in(tmp_path):
    fill(LOAD.rows, tmp_path)
    seen = resume(tmp_path, LOAD, 0.05)
    assert len(seen.epochs) >= LOAD.epochs
    assert all(0 < epoch.lost_s <= epoch.took_s for epoch in seen.epochs)


def test_a_flow_that_does_not_know_its_rows_gives_no_figure(tmp_path):
    init_db_dir(tmp_path, 1)
    with pytest.raises(AssertionError, match="rows were not known"):
        resume(tmp_path, LOAD, 0.05)
