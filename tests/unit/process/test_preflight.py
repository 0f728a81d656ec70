"""What the preflight checks opened is closed, and what they warn of is told."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flows.process import preflight
from flows.process.opened import Opened
from operators.contract.sections import Contract
from operators.errors import FatalError

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


def warning(text: str, then: str = "") -> Callable[[Contract, Opened], str]:
    def check(_contract: Contract, opened: Opened) -> str:
        opened.warnings.append(text)
        if then:
            raise FatalError(subject="table docs", cause=then)
        return "fits"

    return check


def test_a_warning_is_told_beside_the_check_that_found_it_and_by_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preflight, "_recovery", warning("a default stands for NULL"))
    monkeypatch.setattr(preflight, "_registry", warning("another", then="no such column"))
    found = preflight.outcomes(SimpleNamespace(), Opened())  # type: ignore[arg-type]
    first, second = next(found), next(found)
    assert (first.detail, first.error, first.warnings) == (
        "fits",
        None,
        ("a default stands for NULL",),
    )
    assert second.error is not None
    assert second.warnings == ("another",)
    with caplog.at_level(logging.WARNING), pytest.raises(FatalError, match="no such column"):
        preflight.pass_all(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    assert caplog.messages == ["a default stands for NULL", "another"]
