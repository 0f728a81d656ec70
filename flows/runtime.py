"""Runs the flow with real clients, signals and recovery; also for `python -m bytewax.run`."""

import logging
import os
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType

from bytewax.dataflow import Dataflow
from bytewax.run import cli_main
from opentelemetry.sdk.metrics.export import MetricReader

from flows.process.foreign_errors import in_words, is_told
from flows.process.garbage_collector import seldom_collected
from flows.process.session import Cluster, Session
from flows.recovery.directory import Recovery, fault_of
from flows.recovery.files import keys_of
from flows.settings import (
    bytewax_cluster,
    load_contract,
    process_from_env,
)
from flows.sync import SOURCE_STEP
from operators.contract.sections import Contract
from operators.errors import FatalError, RowvecError
from operators.ownership.accept_options import Accept
from operators.printable import LogFormatter

logger = logging.getLogger(__name__)


def run(
    contract: Contract,
    *,
    cluster: Cluster,
    heartbeat: Path | None = None,
    exit_at_end: bool = False,
    readers: Sequence[MetricReader] = (),
    accepted: frozenset[Accept] = frozenset(),
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Run the flow until SIGTERM or SIGINT, or with `exit_at_end` until the end of the topics.

    A stop is clean: pending rows are written, the last offsets are committed, and a restart replays
    nothing.

    Raises:
        RowvecError: It could not start, or an error stopped it; nothing is lost.
    """
    recovery = Recovery(contract.recovery, cluster.process_id, cluster.processes)
    try:
        session = Session.open(
            contract,
            heartbeat=heartbeat,
            exit_at_end=exit_at_end,
            readers=readers,
            cluster=cluster,
            locks=recovery.identities(),
            on_epoch=recovery.check_intact,
            accepted=accepted,
            recorded=recovery.keys_of(SOURCE_STEP),
            renews=True,
        )
        try:
            with _stopping(session.stop), seldom_collected():
                on_ready()
                running = True
                while running:
                    cli_main(  # type: ignore[no-untyped-call]
                        session.flow.dataflow,
                        process_id=cluster.process_id,
                        # Passed even if empty: without addresses Bytewax runs the worker on the main
                        # thread, where a Rust panic prints its own trace and a long batch delays
                        # signals.
                        addresses=list(cluster.addresses),
                        epoch_interval=timedelta(seconds=contract.recovery.epoch_interval_s),
                        recovery_config=recovery.config(),
                    )
                    session.ended()
                    running = session.renewed()
        except BaseException as error:
            if is_told(error):
                raise _reason(error) from error
            raise
        finally:
            session.close()
    except RowvecError:
        raise
    except Exception as error:  # opening or closing failed by what is no error of Rowvec's
        raise _reason(error) from error
    finally:
        recovery.release()


def flow_from_env() -> Dataflow:
    """The flow for Bytewax's own command: `python -m bytewax.run "flows.runtime:flow_from_env()"`.

    `ROWVEC_CONTRACT` names the contract. Recovery, workers and addresses are set by Bytewax's options
    and `BYTEWAX_…` variables. If `BYTEWAX_RECOVERY_DIRECTORY` names the recovery directory, it is
    checked and locked; otherwise a start after a crash waits until the lease has run out. SIGTERM and
    SIGINT end the flow cleanly. If a check fails, the process exits with a message.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        process = process_from_env()
        contract = load_contract(process.contract)
        cluster = Cluster(*bytewax_cluster())
        recovery = None
        if process.recovery is not None:
            section = contract.recovery.model_copy(update={"directory": process.recovery})
            recovery = Recovery(section, cluster.process_id, cluster.processes)
        session = Session.open(
            contract,
            heartbeat=process.heartbeat,
            cluster=cluster,
            locks=() if recovery is None else recovery.identities(),
            accepted=process.accepted,
            on_epoch=lambda: None if recovery is None else recovery.check_intact(),
            recorded=_recorded(process.recovery or _recovery_option()),
        )
    except Exception as error:  # noqa: BLE001 - told as a message, and the process ends
        sys.exit(f"rowvec: {_reason(error)}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: session.stop.set())
    ending = ExitStack()
    ending.enter_context(seldom_collected())
    ending.callback(session.close)
    # Bytewax has no callback for the end of the flow, so the session is closed when Python ends.
    # `atexit` would be too late: thread pools are shut down by then, and Milvus Lite answers from one.
    threading._register_atexit(ending.close)  # type: ignore[attr-defined]
    return session.flow.dataflow


def _recovery_option() -> Path | None:
    """`-r` of Bytewax's own command, which it does not tell the flow."""
    options = ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("-r", "--recovery-directory", type=Path)
    found: Path | None = options.parse_known_args(sys.argv[1:])[0].recovery_directory
    return found


def _recorded(directory: Path | None) -> list[str]:
    """Names of the partitions that a recovery directory has; none if it is not there."""
    return [] if directory is None or not directory.is_dir() else keys_of(directory, SOURCE_STEP)


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT ask the flow to stop; a second one ends the process at once."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        logger.info("Stopping: writing what is pending. Once more to leave at once (it replays).")
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, handle) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reason(error: BaseException) -> RowvecError:
    """The Rowvec error that Bytewax wrapped, or a `FatalError` that describes a foreign one."""
    if "thread panic" in str(error):  # in a thread that talks to the other processes
        return FatalError(
            subject="the flow",
            cause=f"another process of the flow ended or cannot be reached ({error})",
            hint="Start all of them again: nothing is lost",
        )
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RowvecError):
            return cause
        last, cause = cause, cause.__cause__
    logger.debug("Stopped by", exc_info=error)
    fault = fault_of(error)
    if fault is not None:
        return fault
    return FatalError(
        subject="the flow",
        cause=f"it was stopped by {in_words(last)}",
        hint="Nothing is lost: start it again. `--verbose` tells where it came from",
    )
