"""The embed step beside the worker: windows go on at once, lanes wait, and nothing piles up."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from operators.embed import GROUP_TEXTS, MAX_GROUPS, EmbedStep, ModelThread
from operators.embedding import text_hash
from operators.errors import FatalError
from operators.events import KafkaPosition, Row, RowKey, make_version
from operators.shards import Window
from operators.telemetry import Telemetry
from operators.texts import Texts
from operators.upsert import Lane
from operators.versions import VersionMap
from operators.writer import Receipt
from tests.changes import TOPIC
from tests.fakes import HashEmbedder

# Long enough for a slow machine, never waited out by a test that passes.
SOON = 20.0

pytestmark = pytest.mark.timeout(60)


class Held(HashEmbedder):
    """A model that works when it is let; a text that says so breaks it."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.entered.release()
        assert self.let.acquire(timeout=SOON)
        if "broken" in texts:
            raise FatalError(subject="model", cause="is beyond use")
        return super().embed(texts)


@pytest.fixture
def model() -> Held:
    return Held()


@pytest.fixture
def thread(model: Held) -> Iterator[ModelThread]:
    thread = ModelThread()
    yield thread
    for _ in range(2 * MAX_GROUPS):
        model.let.release()
    thread.close()


@pytest.fixture
def step(model: Held, thread: ModelThread) -> EmbedStep:
    telemetry = Telemetry()
    return EmbedStep(model, Texts(model, telemetry, {"docs": None}, 0), telemetry, thread)


def window(*texts: str) -> Window:
    rows = [
        Row(
            RowKey(f"docs:{text}"),
            make_version(0, f"{1:016x}", 1),
            KafkaPosition(TOPIC, 0, 1),
            0,
            "u",
            "docs",
            text,
            text_hash(text),
            {},
        )
        for text in texts
    ]
    versions = VersionMap(whole=True, horizon_s=1, now=0)
    return Window({row.row_key: row for row in rows}, {}, [], set(), versions, ())


def test_windows_go_on_while_the_model_works(step, model):
    one, empty = window("a", "b"), window()
    items = [("000", one), ("001", empty)]
    assert step(items) == items
    assert not one.is_embedded()
    assert empty.is_embedded()
    model.let.release()
    one.wait_embedded()
    one.check_embedded()
    assert list(one.vectors) == ["docs:a", "docs:b"]
    assert empty.vectors == {}


def test_texts_of_small_windows_go_together_and_many_go_in_groups(step, model):
    for _ in range(3):
        model.let.release()
    small = [window(f"{number}") for number in range(40)]
    step([("000", each) for each in small])
    for each in small:
        each.wait_embedded()
    assert model.calls == [40]
    half = GROUP_TEXTS // 2
    large = [window(*(f"{number}/{i}" for i in range(half))) for number in range(3)]
    step([("000", each) for each in large])
    for each in large:
        each.wait_embedded()
    assert sorted(model.calls) == [40, half, 2 * half]


def test_the_worker_waits_when_too_much_waits_for_the_model(step, model):
    for number in range(MAX_GROUPS):
        step([("000", window(f"{number}"))])
    with ThreadPoolExecutor(1) as pool:
        one_more = pool.submit(step, [("000", window("one more"))])
        assert model.entered.acquire(timeout=SOON)
        with pytest.raises(TimeoutError):
            one_more.result(0.05)
        model.let.release()
        one_more.result(SOON)


def test_a_lane_writes_in_order_and_no_window_before_the_model_is_through_with_it():
    written: list[list[str]] = []
    at_it = threading.Semaphore(0)

    def write(windows: Sequence[Window]) -> Receipt:
        written.append([key for each in windows for key in each.rows])
        at_it.release()
        return Receipt(len(windows), 0, 0)

    windows = [window("a"), window("b"), window("c"), window("d")]
    models: list[Future[None]] = [Future() for _ in windows]
    lane = Lane("lane", write)
    for each, model in zip(windows, models, strict=True):
        each.embedding = model
        ticket = lane.submit(each)
    models[1].set_result(None)
    models[3].set_result(None)
    assert written == []
    models[0].set_result(None)
    assert at_it.acquire(timeout=SOON)
    assert written == [["docs:a", "docs:b"]]
    models[2].set_result(None)
    lane.wait(ticket)
    assert written == [["docs:a", "docs:b"], ["docs:c", "docs:d"]]
    lane.close()


def test_a_model_that_fails_is_told_where_the_window_is_written(step, model):
    bad = window("broken")
    step([("000", bad)])
    model.let.release()
    bad.wait_embedded()
    with pytest.raises(FatalError, match="model: is beyond use"):
        bad.check_embedded()
    # And there is room again.
    for number in range(MAX_GROUPS):
        step([("000", window(f"{number}"))])


def test_what_waits_is_given_up_when_the_flow_has_ended(model):
    thread, telemetry = ModelThread(), Telemetry()
    thread.room = threading.BoundedSemaphore(2)
    step = EmbedStep(model, Texts(model, telemetry, {"docs": None}, 0), telemetry, thread)
    windows = [window("a"), window("b")]
    for each in windows:
        step([("000", each)])
    assert model.entered.acquire(timeout=SOON)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(thread.close)
        windows[1].wait_embedded()
        model.let.release()
        closing.result(SOON)
    assert model.calls == [1]
    assert not windows[1].vectors
