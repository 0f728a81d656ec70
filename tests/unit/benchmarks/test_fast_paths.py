"""The benchmark of the fast paths: each contestant renders every record, and one line is printed."""

import orjson
import pytest

from benchmarks.contracts import TABLE, idle_contract
from benchmarks.envelopes import update
from benchmarks.fast_paths import contestants, main

RATIOS = {f"without_{path}_takes" for path in ("fast_versions", "fast_rows", "fast_fields")}


def test_each_contestant_takes_out_one_fast_path() -> None:
    (table,) = idle_contract().tables
    changes = [update(TABLE, n, n + 1) for n in range(3)]
    rates = {name: run() for name, run in contestants(table, changes).items()}
    assert rates.keys() == {"all", *(name.removesuffix("_takes") for name in RATIOS)}
    assert all(rate.cpu > 0 for rate in rates.values())


def test_it_prints_one_line_of_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fast_paths", "--quick"])
    main()
    (line,) = capsys.readouterr().out.splitlines()
    result = orjson.loads(line)
    assert result["quick"] is True
    assert result["ranges"].keys() == RATIOS | {f"{name}_cpu" for name in RATIOS}
