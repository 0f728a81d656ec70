"""The ledger refuses recovery state that does not fit the collection, and names both ways on."""

import json
import threading
from typing import Any

import pytest

from operators.contract.table import TableSection
from operators.errors import FatalError, RetriableError
from operators.ownership.accept_options import LOST, Accept
from operators.ownership.ledger import Ledger
from operators.ownership.ledger_entries import Entry, Holder, Stamp, table_digest
from operators.retry import RetryPolicy
from operators.telemetry import Telemetry
from tests.changes import TOPIC, table
from tests.fakes import MemoryLedger

ID = "a" * 32
OTHER_ID = "b" * 32


def retry() -> RetryPolicy:
    return RetryPolicy(0.0, Telemetry())


def started(
    store: MemoryLedger,
    *accepted: Accept,
    process: int = 0,
    identity: str = ID,
    tables: tuple[TableSection, ...] | None = None,
    hmac_key: str | None = None,
) -> Ledger:
    """A ledger that has passed its start-up checks."""
    ledger = Ledger(store, retry(), tables or (table(),), process, accepted, hmac_key)
    ledger.entries.adopt(ledger.entries.read())
    ledger.start.check(dict.fromkeys(ledger.entries.collections, identity))
    return ledger


def ran(store: MemoryLedger, *ends: int, process: int = 0, partition: int = 0) -> Stamp:
    """Run a process from the first offset, with an epoch that ends at each further one."""
    ledger = started(store, process=process)
    ledger.epochs.closed(TOPIC, partition, -1, ends[0])
    ledger.epochs.emitting(0)
    for number, end in enumerate(ends[1:]):
        ledger.epochs.closed(TOPIC, partition, number, end)
        ledger.epochs.emitting(number + 1)
    return ledger.epochs.stamp(TOPIC)


def refused(accept: Accept, *words: str) -> Any:
    class Refused:
        def __enter__(self) -> None:
            self._raises = pytest.raises(FatalError)
            self._caught = self._raises.__enter__()

        def __exit__(self, *error: Any) -> bool:
            suppressed = self._raises.__exit__(*error)
            message = str(self._caught.value)
            assert f"--accept-{accept}" in message
            assert LOST[accept] in message
            for word in words:
                assert word in message
            return bool(suppressed)

    return Refused()


def test_a_first_start_is_free_to_begin():
    ledger = started(MemoryLedger())
    ledger.start.resume(TOPIC, 0, None, None)
    assert ledger.epochs.stamp(TOPIC) == Stamp(ID, 0)


def test_what_was_committed_is_told_before_the_next_epoch_goes_on():
    store = MemoryLedger()
    ledger = started(store)
    ledger.epochs.closed(TOPIC, 0, -1, -2)
    ledger.epochs.closed(TOPIC, 1, -1, 30)
    ledger.epochs.emitting(0)
    assert seen(store) == {f"{TOPIC}/1": 30}  # partition 0 was never read
    ledger.epochs.closed(TOPIC, 0, 0, 10)
    ledger.epochs.closed(TOPIC, 1, 0, 40)
    assert seen(store) == {f"{TOPIC}/1": 30}  # not committed yet
    # One partition has closed the next epoch already, which is not committed.
    ledger.epochs.closed(TOPIC, 1, 1, 50)
    ledger.epochs.emitting(1)
    assert seen(store) == {f"{TOPIC}/0": 10, f"{TOPIC}/1": 40}
    ledger.epochs.closed(TOPIC, 0, 1, 20)
    ledger.epochs.emitting(2)
    assert seen(store) == {f"{TOPIC}/0": 20, f"{TOPIC}/1": 50}


def test_nothing_new_is_not_told_again():
    store = MemoryLedger()
    ran(store, 5, 10, 10, 10)
    ledger = started(store)
    ledger.epochs.closed(TOPIC, 0, -1, 10)
    ledger.epochs.emitting(0)
    store.fail_next(RetriableError(subject="s", cause="down"), "write")
    ledger.epochs.closed(TOPIC, 0, 0, 10)
    ledger.epochs.emitting(1)
    ledger.epochs.emitting(1)


def test_a_ledger_that_cannot_be_written_lets_nothing_go_on():
    store = MemoryLedger()
    ledger = started(store)
    ledger.epochs.closed(TOPIC, 0, -1, 7)
    store.fail_next(RetriableError(subject="milvus", cause="down"), "write")
    with pytest.raises(FatalError, match="down"):
        ledger.epochs.emitting(0)
    ledger.epochs.emitting(0)
    assert seen(store) == {f"{TOPIC}/0": 7}


def test_a_change_during_a_renewal_is_not_lost():
    """The lease thread renews while the worker forgets an offset, or the checks set up an entry."""
    store = MemoryLedger()
    entries = started(store).entries
    meanwhile = threading.Thread(target=lambda: entries.forget(TOPIC, 3))

    def renewed(_name: str, entry: Entry) -> Entry:
        meanwhile.start()
        meanwhile.join(0.1)  # without the lock, it ends here
        return entry

    entries.write(renewed)
    meanwhile.join()
    entries.write(lambda _name, entry: entry)
    (entry,) = entries.read().values()
    assert entry.breaks == {f"{TOPIC}/3": 1}


def test_a_clean_end_tells_the_last_epoch_when_the_lease_is_let_go():
    store = MemoryLedger()
    ledger = started(store)
    ledger.epochs.closed(TOPIC, 0, -1, -2)
    ledger.epochs.closed(TOPIC, 1, -1, -2)
    ledger.epochs.emitting(0)
    ledger.epochs.closed(TOPIC, 0, 0, 10)
    ledger.epochs.ended()
    ledger.entries.write(lambda _name, entry: entry)
    assert seen(store) == {f"{TOPIC}/0": 10}


@pytest.mark.parametrize("at", [20, 21, 1_000])
def test_the_state_of_the_last_epoch_or_a_later_one_goes_on(at):
    store = MemoryLedger()
    stamp = ran(store, 5, 10, 20)
    started(store).start.resume(TOPIC, 0, at, stamp)


@pytest.mark.parametrize("at", [19, 5, -2])
def test_an_older_state_is_refused(at):
    store = MemoryLedger()
    stamp = ran(store, 5, 10, 20)
    with refused(Accept.OLDER_STATE, f"{TOPIC}[0]", str(at), "20"):
        started(store).start.resume(TOPIC, 0, at, stamp)


def test_a_state_that_is_gone_is_refused():
    store = MemoryLedger()
    ran(store, 5, 10, 20)
    with refused(Accept.LOST_STATE, f"{TOPIC}[0]", "offset 20"):
        started(store).start.resume(TOPIC, 0, None, None)
    # A new partition has no recovery state, and is accepted without one.
    started(store).start.resume(TOPIC, 7, None, None)


@pytest.mark.parametrize("accept", [Accept.OLDER_STATE, Accept.LOST_STATE])
def test_what_was_accepted_once_need_not_be_again(accept):
    store = MemoryLedger()
    ran(store, 5, 10, 20)
    ran(store, 500, 510, process=1, partition=1)
    ledger = started(store, accept)
    if accept is Accept.OLDER_STATE:
        ledger.start.resume(TOPIC, 0, 7, Stamp(ID, 1))
        ledger.epochs.closed(TOPIC, 0, -1, 7)
    else:
        ledger.start.resume(TOPIC, 0, None, None)
    ledger.epochs.emitting(0)
    ledger.epochs.closed(TOPIC, 0, 0, 9)
    ledger.epochs.emitting(1)
    again = started(store)
    again.start.resume(TOPIC, 0, 9, ledger.epochs.stamp(TOPIC))
    with refused(Accept.OLDER_STATE):
        again.start.resume(TOPIC, 0, 8, ledger.epochs.stamp(TOPIC))
    with refused(Accept.OLDER_STATE):  # the acceptance was about partition 0 only
        again.start.resume(TOPIC, 1, 509, ledger.epochs.stamp(TOPIC))


def test_what_another_process_saw_counts():
    store = MemoryLedger()
    ran(store, 5, 30, process=1)
    stamp = ran(store, 30, 40)
    with refused(Accept.OLDER_STATE, "40"):
        started(store, process=2).start.resume(TOPIC, 0, 30, stamp)
    started(store, process=1).start.resume(TOPIC, 0, 40, stamp)


def test_milvus_restored_from_a_backup_is_refused():
    store = MemoryLedger()
    ran(store, 5, 10)
    backup = dict(store.entries)
    stamp = ran(store, 10, 20, 30)
    store.entries = backup
    with refused(Accept.OTHER_COLLECTION, "restored"):
        started(store).start.resume(TOPIC, 0, 30, stamp)
    store.entries.clear()
    with refused(Accept.OTHER_COLLECTION, "ledger is gone"):
        started(store).start.resume(TOPIC, 0, 30, stamp)


def test_a_collection_that_was_made_anew_is_refused():
    store = MemoryLedger()
    stamp = ran(store, 5, 10)
    with refused(Accept.OTHER_COLLECTION, "docs", "made anew"):
        started(store, identity=OTHER_ID)
    ledger = started(store, Accept.OTHER_COLLECTION, identity=OTHER_ID)
    ledger.start.resume(TOPIC, 0, 10, stamp)
    assert ledger.start.distrusts
    ledger.epochs.closed(TOPIC, 0, -1, 10)
    ledger.epochs.emitting(0)
    started(store, identity=OTHER_ID).start.resume(TOPIC, 0, 10, ledger.epochs.stamp(TOPIC))


def test_the_state_of_another_flow_is_refused():
    store = MemoryLedger()
    with refused(Accept.OTHER_COLLECTION, "another collection"):
        started(store).start.resume(TOPIC, 0, 10, Stamp(OTHER_ID, 0))


def test_a_collection_from_before_there_were_identities_is_taken():
    store = MemoryLedger()
    ledger = started(store, identity="")
    ledger.start.resume(TOPIC, 0, 10, Stamp("", 0))
    ledger.epochs.closed(TOPIC, 0, -1, 10)
    ledger.epochs.emitting(0)
    started(store).start.resume(TOPIC, 0, 10, Stamp("", 0))


CHANGES: list[dict[str, Any]] = [
    {"text": "{name}"},
    {"filter": [{"column": "kind", "equals": "a"}]},
    {"soft_delete": "gone"},
    {"empty_text": "skip"},
    {"defaults": {"name": "?"}},
    {"masks": {"name": "hmac"}},
    {"topic": "another.topic", "name": "docs"},
    {"encodings": {"size": "date-days"}},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_another_contract_is_refused(change):
    store = MemoryLedger()
    ran(store, 5, 10)
    said = table().model_dump(exclude_defaults=True)
    other = TableSection.model_validate({**said, **change})
    with refused(Accept.OTHER_CONTRACT, "docs"):
        started(store, tables=(other,))
    ledger = started(store, Accept.OTHER_CONTRACT, tables=(other,))
    ledger.epochs.closed(other.topic, 0, -1, 10)
    ledger.epochs.emitting(0)
    started(store, tables=(other,))
    with refused(Accept.OTHER_CONTRACT):
        started(store)


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 3},
        {"drift": {"added": "halt"}},
        {"unmirrored": ["x"]},
        {"format": "json", "shape": "envelope"},
        {"unavailable_value": "?"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_makes_no_row_different_may_change(change):
    store = MemoryLedger()
    ran(store, 5, 10)
    said = table().model_dump(exclude_defaults=True)
    started(store, tables=(TableSection.model_validate({**said, **change}),))


def test_another_masking_key_is_another_contract_and_nobody_can_read_it():
    said = table().model_dump(exclude_defaults=True)
    masked = TableSection.model_validate({**said, "masks": {"name": "hmac"}})
    store = MemoryLedger()
    secret, other = "s3cret-s3cret-s3cret", "another-another-another"
    ledger = started(store, tables=(masked,), hmac_key=secret)
    ledger.epochs.closed(TOPIC, 0, -1, 10)
    ledger.epochs.emitting(0)
    assert secret not in "".join(store.entries.values())
    started(store, tables=(masked,), hmac_key=secret)
    with refused(Accept.OTHER_CONTRACT):
        started(store, tables=(masked,), hmac_key=other)
    # Without a mask by HMAC the key does not matter.
    assert table_digest(table(), secret) == table_digest(table(), other)


def test_tables_may_come_and_must_not_go():
    said = table().model_dump(exclude_defaults=True)
    second = TableSection.model_validate({**said, "topic": "app.public.more", "name": "more"})
    store = MemoryLedger()
    ran(store, 5, 10)
    ledger = started(store, tables=(table(), second))
    ledger.start.resume("app.public.more", 0, None, None)
    ledger.epochs.closed("app.public.more", 0, -1, 3)
    ledger.epochs.emitting(0)
    with refused(Accept.OTHER_CONTRACT, "more", "no longer names"):
        started(store)


def test_a_table_that_left_may_come_back_as_it_was():
    said = table().model_dump(exclude_defaults=True)
    more = {**said, "topic": "app.public.more", "name": "more"}
    both = (table(), TableSection.model_validate(more))
    store = MemoryLedger()
    started(store, tables=both).epochs.emitting(0)
    started(store, Accept.OTHER_CONTRACT).epochs.emitting(0)
    for _ in range(2):  # it need not be accepted again, and is remembered
        started(store).epochs.emitting(0)
    other = TableSection.model_validate({**more, "text": "{doc}"})
    with refused(Accept.OTHER_CONTRACT, "says something else of more"):
        started(store, tables=(table(), other))
    started(store, tables=both).epochs.emitting(0)
    with refused(Accept.OTHER_CONTRACT, "no longer names"):
        started(store)


def test_a_topic_that_lost_partitions_is_refused():
    store = MemoryLedger()
    ran(store, 5, 10, 20)
    ran(store, 7, 30, 40, process=1, partition=1)
    ran(store, 0, 0, partition=2)  # nothing was ever read from it
    ledger = Ledger(store, retry(), (table(),), 0, ())
    ledger.entries.adopt(ledger.entries.read())
    identities = {"docs": ID}
    ledger.start.check(identities, [(TOPIC, 0), (TOPIC, 1)])
    with refused(Accept.RECREATED_TOPIC, f"{TOPIC}[1]", "no such partition", "offset 40"):
        ledger.start.check(identities, [(TOPIC, 0)])
    accepts = Ledger(store, retry(), (table(),), 0, [Accept.RECREATED_TOPIC])
    accepts.entries.adopt(accepts.entries.read())
    accepts.start.check(identities, [(TOPIC, 0)])
    assert accepts.start.distrusts
    accepts.epochs.emitting(0)
    again = Ledger(store, retry(), (table(),), 0, ())
    again.entries.adopt(again.entries.read())
    again.start.check(identities, [(TOPIC, 0)])


def test_what_was_accepted_is_not_accepted_for_the_next_run_in_the_process():
    store = MemoryLedger()
    ran(store, 5, 10, 20)
    ledger = started(store, Accept.LOST_STATE)
    ledger.start.resume(TOPIC, 0, None, None)
    ledger.epochs.closed(TOPIC, 0, -1, -2)
    ledger.epochs.emitting(0)
    ledger.epochs.closed(TOPIC, 0, 0, 30)
    ledger.epochs.ended()
    ledger.run_again()
    ledger.start.resume(TOPIC, 0, 30, ledger.epochs.stamp(TOPIC))
    with refused(Accept.LOST_STATE, "up to offset 30"):
        ledger.start.resume(TOPIC, 0, None, None)
    # The new run counts its epochs from the first again.
    ledger.epochs.closed(TOPIC, 0, -1, 30)
    ledger.epochs.emitting(0)
    assert ledger.entries["docs"].seen == {f"{TOPIC}/0": 30}


def test_another_shard_count_cannot_be_accepted():
    store = MemoryLedger()
    ran(store, 5, 10)
    entry = json.loads(store.entries["docs/0"])
    store.entries["docs/0"] = json.dumps({**entry, "shards": 64})
    with pytest.raises(FatalError, match="64 shards") as caught:
        started(store, *Accept)
    assert "--accept" not in str(caught.value)


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"format":2}', '{"format":1}'])
def test_an_entry_of_another_release_is_refused(body):
    store = MemoryLedger()
    store.entries["docs/0"] = body
    with pytest.raises(FatalError, match="ledger entry docs/0"):
        started(store)


def test_an_entry_of_a_later_release_is_refused_even_if_it_looks_the_same():
    (name, body), *_ = entries_of_a_run().items()
    later = body.replace('"format":1', '"format":2')
    assert later != body
    assert Entry.unpack(name, body).seen
    with pytest.raises(FatalError, match="not in the format 1"):
        Entry.unpack(name, later)


def entries_of_a_run() -> dict[str, str]:
    store = MemoryLedger()
    ran(store, 0, 10)
    return store.entries


def test_other_collections_are_none_of_its_business():
    store = MemoryLedger()
    store.entries["elsewhere/0"] = Entry(
        OTHER_ID, 0, sequence=9_000, shards=7, holder=Holder("x", "y", "z", 1.0)
    ).pack()
    assert started(store).epochs.stamp(TOPIC) == Stamp(ID, 0)


def seen(store: MemoryLedger) -> dict[str, int]:
    return dict(Entry.unpack("docs/0", store.entries["docs/0"]).seen)


# What is known of key columns.

DATE = {"id": "date|days|0"}


def learned(store: MemoryLedger, codes: dict[str, str], *accepted: Accept, **how: Any) -> Ledger:
    """A process that has learned this by its first epoch, and has ended the one after."""
    ledger = started(store, *accepted, **how)
    ledger.entries.key_types = lambda: {TOPIC: codes}
    ledger.epochs.closed(TOPIC, 0, -1, 0)
    ledger.epochs.emitting(0)
    ledger.epochs.closed(TOPIC, 0, 0, 10)
    ledger.epochs.emitting(1)
    return ledger


def test_what_was_learned_of_the_key_is_known_to_the_next_process():
    store = MemoryLedger()
    assert started(store).entries.known_keys(TOPIC) == {}
    learned(store, DATE)
    assert started(store).entries.known_keys(TOPIC) == DATE
    assert started(store, process=1).entries.known_keys(TOPIC) == DATE


def test_what_is_learned_later_is_written_with_the_next_offsets():
    store = MemoryLedger()
    codes: dict[str, str] = {}
    ledger = learned(store, codes)
    assert "keys" not in json.loads(store.read()["docs/0"])  # as the releases before wrote it
    codes |= DATE
    ledger.epochs.closed(TOPIC, 0, 1, 20)
    ledger.epochs.emitting(2)
    assert started(store).entries.known_keys(TOPIC) == DATE


def test_a_collection_that_is_made_anew_forgets_what_was_learned():
    store = MemoryLedger()
    learned(store, DATE)
    anew = started(store, Accept.OTHER_COLLECTION, identity=OTHER_ID)
    assert anew.entries.known_keys(TOPIC) == {}
    learned(store, {}, Accept.OTHER_COLLECTION, identity=OTHER_ID)
    assert started(store, identity=OTHER_ID).entries.known_keys(TOPIC) == {}


def test_processes_that_read_a_key_differently_do_not_go_on():
    store = MemoryLedger()
    learned(store, DATE)
    learned(store, {"id": "decimal||2"}, process=1)
    with pytest.raises(FatalError, match="column 'id' differently") as caught:
        started(store).entries.known_keys(TOPIC)
    assert "encodings" in caught.value.hint


@pytest.mark.parametrize("more", ["plain", "written number > date|days|0"])
def test_a_process_may_have_learned_less_than_another(more):
    for first, second in (("written number", more), (more, "written number"), (more, more)):
        store = MemoryLedger()
        learned(store, {"id": first})
        learned(store, {"id": second}, process=1)
        assert started(store).entries.known_keys(TOPIC) == {"id": more}
