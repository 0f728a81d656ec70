"""What the preflight checks opened is closed, however many parts of it fail to close."""

from types import SimpleNamespace
from typing import Any

import pytest

from flows.process.preflight import Opened

ORDER = ["lease", "timer", "store", "registry", "database"]


@pytest.mark.parametrize("fails", [None, *ORDER])
def test_everything_that_the_checks_opened_is_closed(fails: str | None) -> None:
    closed: list[str] = []

    def part(name: str, method: str = "close") -> Any:
        def close() -> None:
            closed.append(name)
            if name == fails:
                raise OSError("it is gone")

        return SimpleNamespace(**{method: close})

    opened = Opened(
        framed=part("registry"),
        database=part("database"),
        store=part("store"),
        lease=part("lease", "end"),
        timer=part("timer"),
    )
    if fails is None:
        opened.close()
    else:
        with pytest.raises(OSError, match="gone"):
            opened.close()
    assert closed == ORDER


def test_checks_that_opened_nothing_have_nothing_to_close() -> None:
    Opened().close()
