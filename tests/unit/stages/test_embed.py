"""The embed step: it passes windows on at once, embeds on its own thread, and its queue is bounded."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from operators.changes.events import DeadLetter, Delete, KafkaPosition, Truncate
from operators.changes.row_key import RowKey
from operators.changes.rows import Move, PartialRow, Row
from operators.changes.text_hash import text_hash
from operators.changes.version import make_version
from operators.errors import FatalError
from operators.model.text_vectors import CHARACTERS_PER_TOKEN, Texts
from operators.stages.embed import GROUP_BATCHES, EmbedStep
from operators.stages.lane_writer import Receipt
from operators.stages.lanes import Lane
from operators.stages.window import Window
from operators.state.version_map import VersionMap
from operators.telemetry import Telemetry
from tests.changes import TOPIC
from tests.fakes import HashEmbedder

# Timeout of waits: long enough for a slow machine; a passing test never waits for all of it.
SOON = 20.0

pytestmark = pytest.mark.timeout(60)


class Held(HashEmbedder):
    """A model that embeds once `let` is released, and fails on the text "broken"."""

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


def step_of(model: HashEmbedder, pool: Executor | None, on_done: Callable[[], None]) -> EmbedStep:
    telemetry = Telemetry()
    return EmbedStep(model, Texts(model, telemetry, {"docs": None}, 0), telemetry, pool, on_done)


@pytest.fixture
def done() -> threading.Semaphore:
    return threading.Semaphore(0)


@pytest.fixture
def step(model: Held, done: threading.Semaphore) -> Iterator[EmbedStep]:
    step = step_of(model, ThreadPoolExecutor(1), done.release)
    yield step
    model.let.release(100)
    step.close()


def row(text: str, key: str | None = None, lsn: int = 1) -> Row:
    return Row(
        RowKey(f"docs:{key or text}"),
        make_version(0, f"{lsn:016x}", lsn),
        KafkaPosition(TOPIC, 0, lsn),
        0,
        "u",
        "docs",
        text,
        text_hash(text),
        {},
    )


def window(*texts: str, shard: str = "000", unchanged: Sequence[str] = ()) -> Window:
    rows = [row(text) for text in (*texts, *unchanged)]
    return Window(
        {row.row_key: row for row in rows},
        {},
        [],
        {RowKey(f"docs:{text}") for text in unchanged},
        VersionMap(whole=True, horizon_s=1, now=0),
        (),
        shard=shard,
    )


def delete(text: str) -> Delete:
    version = make_version(0, f"{1:016x}", 1)
    return Delete(RowKey(f"docs:{text}"), version, KafkaPosition(TOPIC, 0, 1), 0)


def embedded(window: Window) -> list[str]:
    assert window.embedding is not None
    window.embedding.result(SOON)
    return list(window.vectors)


def test_windows_go_on_while_the_model_works(step, model, done):
    one, empty = window("a", "b"), window()
    items = [("000", one), ("001", empty)]
    assert step(items) == items
    assert not one.is_embedded()
    assert empty.is_embedded()
    model.let.release()
    assert embedded(one) == ["docs:a", "docs:b"]
    assert empty.vectors == {}
    assert done.acquire(timeout=SOON)


def test_texts_of_small_windows_go_together_and_many_go_in_groups(model):
    model.let.release(100)
    step = step_of(model, None, lambda: None)
    step([("000", window(f"{number}")) for number in range(40)])
    assert model.calls == [40]
    # Each of these texts is long enough to fill a batch.
    filling = "x" * (model.max_batch_tokens * CHARACTERS_PER_TOKEN)
    step([("000", window(f"{number}{filling}")) for number in range(2 * GROUP_BATCHES + 1)])
    assert model.calls == [40, GROUP_BATCHES, GROUP_BATCHES, 1]


def test_what_closes_while_the_model_is_busy_goes_into_one_call(step, model):
    windows = [window(f"{number}") for number in range(4)]
    step([("000", windows[0])])
    assert model.entered.acquire(timeout=SOON)
    for each in windows[1:]:
        step([("000", each)])
    model.let.release(2)
    for number, each in enumerate(windows):
        assert embedded(each) == [f"docs:{number}"]
    assert model.calls == [1, 3]


def test_what_waits_and_is_overwritten_is_not_embedded(step, model):
    step([("000", window("busy"))])
    assert model.entered.acquire(timeout=SOON)
    old = window("old", "kept")
    step([("000", old)])
    new = window(shard="000")
    new.rows = {RowKey("docs:old"): row("new", "old", 2)}
    ((_, _),) = step([("000", new)])
    gone = window(shard="000")
    gone.deletes = {RowKey("docs:kept"): delete("kept")}
    step([("000", gone)])
    model.let.release(2)
    assert embedded(new) == ["docs:old"]
    assert (embedded(old), old.rows) == ([], {})
    assert model.calls == [1, 1]


def test_a_row_with_the_text_that_waits_brings_it_itself(step, model):
    step([("000", window("busy"))])
    assert model.entered.acquire(timeout=SOON)
    first, second = window("same"), window(unchanged=["same"])
    step([("000", first)])
    assert step([("000", second)]) == [("000", second)]
    model.let.release(2)
    assert embedded(second) == ["docs:same"]
    assert second.unchanged == set()
    assert first.rows == {}


@pytest.mark.parametrize("what", ["truncates", "moves", "partial"])
def test_what_waits_stays_where_something_may_need_it(step, model, what):
    step([("000", window("busy"))])
    assert model.entered.acquire(timeout=SOON)
    old, new, last = window("partial"), window(), window("partial")
    step([("000", old)])
    match what:
        case "truncates":
            new.truncates = [
                Truncate("docs", make_version(0, "0", 1), KafkaPosition(TOPIC, 0, 1), 0)
            ]
        case "moves":
            new.deletes = {RowKey("docs:partial"): delete("partial")}
            new.moves = [Move(delete("partial"))]
        case "partial":
            new.rows = {RowKey("docs:partial"): partial_row()}
    step([("000", new)])
    step([("000", last)])
    model.let.release(3)
    assert embedded(last) == ["docs:partial"]
    assert embedded(old) == list(old.rows) == ["docs:partial"]


def test_what_fails_the_model_is_told_by_its_windows_and_by_no_others(step, model):
    broken, sound = window("broken"), window("sound")
    step([("000", broken)])
    assert model.entered.acquire(timeout=SOON)
    step([("000", sound)])
    model.let.release(2)
    assert embedded(sound) == ["docs:sound"]
    with pytest.raises(FatalError, match="is beyond use"):
        broken.check_embedded()


@pytest.mark.parametrize("error", [MemoryError("no room"), SystemExit(1), ValueError("a bug")])
def test_a_thread_that_fails_outside_of_the_model_is_told_as_well(step, model, error):
    """Nobody waits for the thread itself: its windows would wait for their vectors for ever."""

    def fail(waiting: Sequence[object]) -> None:
        raise error

    step._take_group = fail
    waiting = window("a")
    step([("000", waiting)])
    with pytest.raises(type(error)):
        embedded(waiting)


def test_closing_begins_nothing_more(step, model):
    under_way, waiting = window("a"), window("b")
    step([("000", under_way)])
    assert model.entered.acquire(timeout=SOON)
    step([("000", waiting)])
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(step.close)
        with pytest.raises(CancelledError):
            embedded(waiting)
        model.let.release(2)
        closing.result(SOON)
    assert embedded(under_way) == ["docs:a"]
    assert model.calls == [1]


def test_what_needs_no_model_goes_before_what_does(step, model):
    mixed = window("a", unchanged=["same"])
    mixed.deletes = {RowKey("docs:gone"): delete("gone")}
    mixed.dead = [DeadLetter(KafkaPosition(TOPIC, 0, 1), "decode", "value", "no", "fix it")]
    (_, ready), (shard, waiting) = step([("007", mixed)])
    assert shard == "007"
    assert (list(ready.rows), ready.unchanged) == (["docs:same"], {"docs:same"})
    assert (list(ready.deletes), len(ready.dead)) == (["docs:gone"], 1)
    assert ready.is_embedded()
    assert (list(waiting.rows), waiting.deletes, waiting.dead) == (["docs:a"], {}, [])
    assert not waiting.is_embedded()


def partial_row() -> PartialRow:
    key, version = RowKey("docs:partial"), make_version(0, f"{1:016x}", 1)
    position = KafkaPosition(TOPIC, 0, 1)
    return PartialRow(key, version, position, 0, "u", "docs", {}, {}, ("doc",))


@pytest.mark.parametrize("what", ["truncates", "moves", "partial"])
def test_what_may_need_the_rest_of_its_window_stays_with_it(step, what):
    whole = window("a", unchanged=["same"])
    match what:
        case "truncates":
            whole.truncates = [
                Truncate("docs", make_version(0, "0", 1), KafkaPosition(TOPIC, 0, 1), 0)
            ]
        case "moves":
            whole.moves = [Move(delete("moved"))]
        case "partial":
            whole.rows[RowKey("docs:partial")] = partial_row()
    before = dict(whole.rows)
    assert step([("000", whole)]) == [("000", whole)]
    assert whole.rows == before


def test_a_lane_keeps_the_order_of_a_shard_and_lets_no_other_wait_for_it():
    written: list[list[str]] = []
    at_it = threading.Semaphore(0)

    def write(windows: Sequence[Window]) -> Receipt:
        written.append([key for each in windows for key in each.rows])
        at_it.release()
        return Receipt(len(windows), 0, 0)

    slow, after_slow, other = window("a"), window("b"), window("c", shard="001")
    slow.embedding = Future()
    lane = Lane("lane", write)
    lane.submit(slow)
    lane.submit(after_slow)
    assert lane.submit(other) == 1
    lane.wait("001", 1)
    assert written == [["docs:c"]]
    slow.embedding.set_result(None)
    lane.look()
    lane.wait("000", 2)
    assert written == [["docs:c"], ["docs:a", "docs:b"]]
    lane.close()


class Halfway(HashEmbedder):
    """A model whose other thread has counted the tokens of a call and not yet the padded ones."""

    halfway = True

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        vectors = super().embed(texts)
        padded = self.tokens_total + 2
        self.padded_tokens_total = 0 if self.halfway else padded
        self.halfway = False
        return vectors


def test_padding_that_another_thread_is_about_to_count_is_counted_once():
    reader = InMemoryMetricReader()
    telemetry = Telemetry(meter_provider=MeterProvider(metric_readers=[reader]))
    model = Halfway()
    step = EmbedStep(model, Texts(model, telemetry, {"docs": None}, 0), telemetry)
    step([("000", window("one two three"))])
    step([("000", window("four"))])
    data = reader.get_metrics_data()
    assert data is not None
    counted = {
        metric.name: int(metric.data.data_points[0].value)  # type: ignore[union-attr]
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if metric.name in ("rowvec.embed.padding", "rowvec.embed.tokens")
    }
    assert counted == {"rowvec.embed.tokens": 4, "rowvec.embed.padding": 2}
