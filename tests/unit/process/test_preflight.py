"""What the preflight checks opened is closed, and what they warn of is told."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flows.process import preflight
from flows.process.collection_names import CollectionNames
from flows.process.opened import Opened
from operators.contract.sections import Contract
from operators.errors import FatalError
from tests.changes import contract

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


class PanicException(BaseException):
    """Stands for a panic of Rust code."""


CHECKS = ["recovery", "registry", "kafka", "tables", "database", "milvus", "lease", "model"]


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all checks pass but those of the collections and the ledger."""
    for name in CHECKS:
        monkeypatch.setattr(preflight, f"_{name}", lambda *_: "fits")


def failing(error: BaseException) -> Callable[[Contract, Opened], str]:
    def check(_contract: Contract, _opened: Opened) -> str:
        raise error

    return check


@pytest.mark.parametrize("error", [TypeError("no\n text"), PanicException("no text"), KeyError()])
def test_a_foreign_error_is_a_failed_check_and_the_other_checks_go_on(
    error: BaseException, passing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_kafka", failing(error))
    found = {each.name: each for each in preflight.outcomes(contract(), Opened())}
    assert list(found) == CHECKS
    told = str(found.pop("kafka").error)
    assert told.startswith(f"the check of kafka: it ended with {type(error).__name__}")
    assert ("no text" in told) is bool(error.args)
    assert "rowvec run --verbose" in told
    assert all(each.error is None for each in found.values())
    with pytest.raises(FatalError, match="the check of kafka: it ended with") as raised:
        preflight.pass_all(contract(), SimpleNamespace())  # type: ignore[arg-type]
    assert str(raised.value) == told


def test_a_foreign_error_about_a_row_is_told_without_its_text(
    passing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_tables", failing(ValueError("could not convert: 'private'")))
    (error,) = [e.error for e in preflight.outcomes(contract(), Opened()) if e.error is not None]
    assert "ValueError" in str(error)
    assert "private" not in str(error)


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(0)])
def test_the_end_of_the_process_is_no_failed_check(
    end: BaseException, passing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_kafka", failing(end))
    with pytest.raises(type(end)):
        list(preflight.outcomes(contract(), Opened()))


def test_records_are_not_looked_at_without_the_rules_to_read_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A registry that is not configured right failed the check of the tables with a KeyError."""
    refused = FatalError(subject="url in [schema_registry]", cause="is none")
    for name in CHECKS:
        if name != "tables":
            monkeypatch.setattr(preflight, f"_{name}", lambda *_: "fits")
    monkeypatch.setattr(preflight, "_registry", failing(refused))
    opened = Opened(partitions=[("app.public.docs", 0)])
    found = {each.name: each.error for each in preflight.outcomes(contract(), opened)}
    assert "tables" not in found
    assert [error for error in found.values() if error is not None] == [refused]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_no_collection_is_created_once_a_check_has_failed(
    there: bool, fails: bool, passing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contract that is mended may want another collection."""
    made: list[str] = []

    def ensure(*_: object) -> bool:
        made.append("docs")
        return True

    monkeypatch.setattr(preflight, "ensure_collections", ensure)
    monkeypatch.setattr(preflight, "collection_specs", lambda *_: [])
    if fails:
        monkeypatch.setattr(preflight, "_tables", failing(FatalError(subject="a", cause="b")))
    said = contract()
    own = {table.collection: table.collection for table in said.tables}
    names = CollectionNames(said, own, own if there else {})
    opened = Opened(store=SimpleNamespace(), embedder=SimpleNamespace(), names=names)  # type: ignore[arg-type]
    found = [each.name for each in preflight.outcomes(said, opened)]
    assert ("collections" in found) is bool(made) is (there or not fails)
