"""Whatever stops a start is told as a message of Rowvec's, under its own command and Bytewax's."""

from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from flows import runtime
from flows.process.session import Cluster
from operators.contract.sections import Contract
from operators.errors import FatalError
from tests.changes import contract

FOREIGN = [
    KafkaException(KafkaError(KafkaError._INVALID_ARG, "No such configuration property")),
    ValueError("Cannot invoke RPC on closed channel!"),
    OSError(24, "Too many open files"),
    MemoryError(),
]


def in_directory(path: Path) -> Contract:
    loaded = contract()
    section = loaded.recovery.model_copy(update={"directory": path / "recovery"})
    return loaded.model_copy(update={"recovery": section})


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
def test_a_foreign_error_of_a_start_is_told_as_a_message(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(runtime.Session, "open", fail)
    with pytest.raises(FatalError, match=f"it was stopped by {type(error).__name__}"):
        runtime.run(in_directory(tmp_path), cluster=Cluster())
    # The directory's lock was released: a second start meets the same error, not a lock.
    with pytest.raises(FatalError, match=f"it was stopped by {type(error).__name__}"):
        runtime.run(in_directory(tmp_path), cluster=Cluster())


def test_a_foreign_error_under_bytewaxs_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FOREIGN[0]

    monkeypatch.setattr(runtime, "load_contract", lambda _path: in_directory(tmp_path))
    monkeypatch.setattr(runtime.Session, "open", fail)
    with pytest.raises(SystemExit, match="rowvec: the flow: it was stopped by KafkaException"):
        runtime.flow_from_env()
