"""The preflight checks: what must be right before the first message is read."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from flows.process import open_files
from flows.process.collection_names import CollectionNames
from flows.process.foreign_errors import is_told, of_a_check
from flows.process.opened import Claim, Opened
from flows.process.peeking import default_warnings, peek
from flows.recovery.directory import check_directory
from flows.settings import bytewax_cluster
from flows.sync import collection_specs, ensure_collections, rules_of
from operators.contract.addresses import unencrypted
from operators.contract.sections import Contract
from operators.errors import FatalError, RowvecError
from operators.kafka import topics as kafka_topics
from operators.kafka.config import check_clients
from operators.milvus.store import MilvusStore
from operators.ownership.accept_options import Accept
from operators.ownership.collection_watch import CollectionWatch
from operators.ownership.kill_timer import KillTimer
from operators.ownership.lease import Lease
from operators.ownership.lease_times import LeaseTimes
from operators.ownership.ledger import Ledger
from operators.ownership.ledger_entries import Holder
from operators.postgres.hidden_changes import partition_warnings
from operators.postgres.reselect import Reselector
from operators.printable import without_credentials
from operators.retry import RetryPolicy
from operators.telemetry import Telemetry

if TYPE_CHECKING:
    from operators.model.transformer import TransformerEmbedder

logger = logging.getLogger(__name__)

PEEKED_RECORDS = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one check.

    Attributes:
        error: Why it failed; None if it passed.
        warnings: What the flow can run with, but its user should know; each with what to do.
    """

    name: str
    detail: str
    error: RowvecError | None = None
    warnings: tuple[str, ...] = ()


def outcomes(contract: Contract, opened: Opened) -> Iterator[Outcome]:
    """Run the checks, cheap ones first, and yield each result at once.

    A check is skipped if an earlier one, which it depends on, has failed. No collection is created once
    one has failed: the contract may have to be mended. From `_milvus` on, the checks see the contract
    with the own names of its collections, in place of aliases.
    """
    checks: list[tuple[str, Callable[[Contract, Opened], str]]] = [
        ("recovery", _recovery),
        ("registry", _registry),
        ("kafka", _kafka),
        ("tables", _tables),
        ("database", _database),
        ("milvus", _milvus),
        ("lease", _lease),
        ("model", _model),
        ("collections", _collections),
        ("ledger", _ledger),
    ]
    for name, check in checks:
        opened.warnings.clear()
        try:
            detail = check(opened.names.contract if opened.names else contract, opened)
        except RowvecError as error:
            opened.failed = True
            yield Outcome(name, "", error, tuple(opened.warnings))
        except _NotPossible:
            continue
        except BaseException as error:
            if not is_told(error):
                raise
            opened.failed = True
            logger.debug("The check of %s ended with", name, exc_info=error)
            yield Outcome(name, "", of_a_check(name, error), tuple(opened.warnings))
        else:
            yield Outcome(name, detail, warnings=tuple(opened.warnings))


def pass_all(contract: Contract, claim: Claim, accepted: frozenset[Accept] = frozenset()) -> Opened:
    """Run all checks for a flow that is about to start, and take the lease. Warnings go to the log.

    Args:
        contract: What it will run by.
        claim: The process that is about to write.
        accepted: Findings that the user accepts for this start.

    Raises:
        RowvecError: The first check that failed. (`rowvec check` reports all of them.)
    """
    opened = Opened(claim=claim, accepted=accepted)
    try:
        for outcome in outcomes(contract, opened):
            for warning in outcome.warnings:
                logger.warning("%s", warning)
            if outcome.error is not None:
                raise outcome.error
    except BaseException:
        opened.close()
        raise
    return opened


def load_embedder(contract: Contract) -> "TransformerEmbedder":
    """Load the contract's model. Imports torch only here, because that takes seconds."""
    from operators.model.transformer import TransformerEmbedder

    return TransformerEmbedder(contract.embedding)


class _NotPossible(Exception):
    """The check is skipped: it is not configured, or an earlier check has failed and says why."""


def _recovery(contract: Contract, _opened: Opened) -> str:
    directory: Path = contract.recovery.directory
    check_directory(directory)
    known = len(list(directory.glob("part-*.sqlite3"))) if directory.exists() else 0
    return f"{directory}: " + (f"{known} partitions" if known else "to be created")


def _kafka(contract: Contract, opened: Opened) -> str:
    opened.warnings += unencrypted(contract, "kafka")
    check_clients(contract.kafka)
    opened.partitions = kafka_topics.topic_partitions(
        contract.kafka, [table.topic for table in contract.tables]
    )
    open_files.allow(
        -(-len(opened.partitions) // _processes(opened)),
        kafka_topics.broker_count(contract.kafka),
        contract.recovery.partitions,
    )
    kafka_topics.ensure_dead_letter_topic(contract.kafka)
    topics = len(contract.tables)
    return (
        f"{contract.kafka.bootstrap_servers}: {topics} topic{'s' * (topics > 1)}, "
        f"{len(opened.partitions)} partition{'s' * (len(opened.partitions) > 1)}"
    )


def _processes(opened: Opened) -> int:
    """How many processes the flow has; `rowvec check` knows it by Bytewax's variables alone."""
    claim = opened.claim
    return max(1, len(bytewax_cluster()[1])) if claim is None else claim.processes


def _registry(contract: Contract, opened: Opened) -> str:
    opened.warnings += unencrypted(contract, "registry")
    if contract.schema_registry is not None:
        # Imported here: it brings an HTTP client and two formats that most flows do not need.
        from operators.codec.registry.decoder import RegistryDecoder

        retry = RetryPolicy(contract.schema_registry.request_timeout_s, Telemetry())
        opened.framed = RegistryDecoder(contract.schema_registry, retry)
    opened.rules = rules_of(contract, opened.framed)
    if contract.schema_registry is None:
        raise _NotPossible
    return without_credentials(contract.schema_registry.url)


def _tables(contract: Contract, opened: Opened) -> str:
    """Try the contract on existing records, so that a wrong column shows before the flow runs."""
    if not opened.partitions or not opened.rules:  # `_kafka` or `_registry` has failed
        raise _NotPossible
    records = kafka_topics.first_records(contract.kafka, opened.partitions, PEEKED_RECORDS)
    seen: list[str] = []
    for table in contract.tables:
        found = peek(opened.rules[table.topic], records[table.topic])
        opened.warnings += found.warnings
        opened.nulls[table.topic] = found.nulls
        if found.origin is None:
            seen.append(f"{table.topic} has no rows yet")
        else:
            opened.origins[table.topic] = found.origin
            seen.append(f"{table.topic} fits, {found.fits}")
    return "; ".join(seen)


def _database(contract: Contract, opened: Opened) -> str:
    """If `[source] dsn` is set, ask the database whether Debezium's keys are what they seem."""
    if contract.source is None:
        raise _NotPossible
    opened.database = Reselector(contract.source)
    for table in contract.tables:
        origin = opened.origins.get(table.topic)
        if origin is None:
            continue  # no row seen yet; the topic's name may differ from the table's
        problem = opened.database.identity_problem(table, origin)
        if problem is not None:
            raise FatalError(subject=f"table {table.name}", cause=problem)
        hidden = opened.database.hidden(origin)
        opened.warnings += partition_warnings(table, origin, hidden)
        opened.warnings += default_warnings(
            table, hidden.defaults, opened.nulls.get(table.topic, ())
        )
    seen = ", ".join(".".join(origin) for origin in opened.origins.values())
    return f"keys are as the contract says: {seen}" if seen else "not asked: no rows seen yet"


def _milvus(contract: Contract, opened: Opened) -> str:
    opened.warnings += unencrypted(contract, "milvus")
    opened.store = MilvusStore(contract.milvus)
    opened.names = CollectionNames.of(contract, opened.store.find)
    return "; ".join([contract.milvus.uri, *opened.names.told()])


def _lease(contract: Contract, opened: Opened) -> str:
    """Take the lease, before checking anything that another holder might change.

    For `rowvec check`, only say who holds it.
    """
    if opened.store is None or opened.names is None:
        raise _NotPossible
    claim = opened.claim
    key = contract.masking.hmac_key
    ledger = Ledger(
        opened.store.ledger(),
        RetryPolicy(0.0, Telemetry()) if claim is None else claim.retry,
        contract.tables,
        process=0 if claim is None else claim.process,
        accepted=opened.accepted,
        hmac_key=None if key is None else key.get_secret_value(),
        identities=opened.names.identities,
    )
    if claim is None:
        entries = ledger.entries.read()
        ledger.entries.adopt(entries)
        opened.ledger = ledger
        holders = {
            entry.holder.where
            for name, entry in entries.items()
            if entry.holder.id and ledger.entries.collection_about(name, entry) is not None
        }
        return f"held by {', '.join(sorted(holders))}" if holders else "free"
    opened.ledger = ledger
    opened.timer = KillTimer()
    times = LeaseTimes(contract.milvus.lease_s, 2 * contract.milvus.request_timeout_s)
    opened.watch = CollectionWatch(opened.store.find, times.settle, time.monotonic)
    opened.lease = Lease(
        ledger.entries,
        times,
        opened.timer,
        Holder(
            id=uuid4().hex,
            where=f"process {os.getpid()} on {socket.gethostname()}",
            lock=claim.locks[0] if claim.locks else "",
        ),
        process=claim.process,
        processes=claim.processes,
        free_locks=claim.locks,
        watch=opened.watch.look,
    )
    opened.lease.claim()
    return "taken"


def _ledger(contract: Contract, opened: Opened) -> str:
    """Compare contract and collections with the ledger, and confirm the lease."""
    if opened.store is None or opened.ledger is None or opened.embedder is None:
        raise _NotPossible
    _need_collections(contract, opened)
    names = [spec.name for spec in collection_specs(contract, opened.embedder)]
    opened.ledger.start.check(
        {name: opened.store.identity(name) for name in names}, opened.partitions
    )
    key_types = {topic: rules.decoder.key_types for topic, rules in opened.rules.items()}
    for topic, types in key_types.items():
        types.adopt(opened.ledger.entries.known_keys(topic))
    opened.ledger.entries.key_types = lambda: {t: types.codes for t, types in key_types.items()}
    if opened.lease is not None:
        assert opened.names is not None
        assert opened.watch is not None
        opened.watch.begin(opened.names.own_names)
        opened.lease.confirm()
    return "collections and contract are those that were filled"


def _model(contract: Contract, opened: Opened) -> str:
    opened.embedder = embedder = load_embedder(contract)
    for table in contract.tables:
        if table.chunks is not None:  # guard: model-chunks-tried
            embedder.chunks("a text. " * 99, table.chunks.max_tokens, table.chunks.overlap_tokens)
    if embedder.advice:
        opened.warnings.append(f"embedding model '{contract.embedding.model}': {embedder.advice}")
    return f"{embedder.model}, {embedder.dim} dimensions"


def _need_collections(contract: Contract, opened: Opened) -> None:
    """Skip a check of collections that would have to be created, if an earlier check has failed."""
    assert opened.names is not None
    there = opened.names.identities
    # guard: nothing-created-after-a-failure
    if opened.failed and any(table.collection not in there for table in contract.tables):
        raise _NotPossible


def _collections(contract: Contract, opened: Opened) -> str:
    if opened.store is None or opened.embedder is None:
        raise _NotPossible
    _need_collections(contract, opened)
    opened.collections_empty = ensure_collections(contract, opened.embedder, opened.store)
    names = [spec.name for spec in collection_specs(contract, opened.embedder)]
    return ", ".join(f"{name} ({opened.store.count(name):,} entities)" for name in names)
