"""`rowvec run`."""

import logging
import signal
import sys
from typing import Annotated, Any

import typer

from flows.commands.options import ContractOption, error_console, set_up_log
from flows.process import first_process


def _accept(situation: str) -> Any:
    return typer.Option(help=f"Go on, once: {situation}", rich_help_panel="Going on without")


VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Tell more in the log.")]


def run(
    contract: ContractOption = None,
    exit_at_end: Annotated[
        bool, typer.Option("--exit-at-end", help="End when the topics are read to their end.")
    ] = False,
    process_id: Annotated[
        int,
        typer.Option("--process-id", "-i", envvar="BYTEWAX_PROCESS_ID", help="Of this process."),
    ] = 0,
    addresses: Annotated[
        str,
        typer.Option(
            "--addresses",
            "-a",
            envvar="BYTEWAX_ADDRESSES",
            help="host:port of every process of the flow, `;` between them.",
        ),
    ] = "",
    accept_lost_state: Annotated[
        bool, _accept("There is no recovery state for a collection that was filled.")
    ] = False,
    accept_older_state: Annotated[
        bool, _accept("The recovery state is older than what the collection has seen.")
    ] = False,
    accept_other_contract: Annotated[
        bool, _accept("The contract says something else than the one that filled the collection.")
    ] = False,
    accept_other_collection: Annotated[
        bool,
        _accept("The collection was made anew, or restored, since the recovery state was made."),
    ] = False,
    accept_recreated_topic: Annotated[
        bool, _accept("The topic is not the one that was read.")
    ] = False,
    accept_missed_records: Annotated[
        bool, _accept("Retention has removed records that were not read.")
    ] = False,
    verbose: VerboseOption = False,
) -> None:
    """Run the flow until SIGTERM or Ctrl-C; both end it cleanly, and a restart replays nothing.

    Each --accept-… is for one start: what is lost is in the message that asks for it, and in
    docs/recovery.md.
    """
    first_process.work_in_a_child()
    # Before the imports, which take seconds: nothing has been read yet, so the process can just exit.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    console = error_console()
    set_up_log(console, verbose=verbose)
    from flows import runtime, settings
    from flows.process.progress import Progress
    from flows.process.session import Cluster
    from operators.ownership.accept_options import Accept

    accepted = {
        Accept.LOST_STATE: accept_lost_state,
        Accept.OLDER_STATE: accept_older_state,
        Accept.OTHER_CONTRACT: accept_other_contract,
        Accept.OTHER_COLLECTION: accept_other_collection,
        Accept.RECREATED_TOPIC: accept_recreated_topic,
        Accept.MISSED_RECORDS: accept_missed_records,
    }
    process = settings.process_from_env()
    if process.heartbeat is not None:
        # A file left by an earlier container would make a probe think that this flow is alive.
        process.heartbeat.unlink(missing_ok=True)
    loaded = settings.load_contract(contract or process.contract)
    cluster = settings.cluster_from(process_id, addresses)
    logging.getLogger("rowvec").info("Checking Kafka, Milvus and the model")
    with Progress(console) as progress:
        runtime.run(
            loaded,
            cluster=Cluster(*cluster),
            heartbeat=process.heartbeat,
            exit_at_end=exit_at_end,
            readers=[progress.reader],
            accepted=process.accepted | {what for what, chosen in accepted.items() if chosen},
            on_ready=lambda: logging.getLogger("rowvec").info("Running"),
        )
    logging.getLogger("rowvec").info("Stopped cleanly; a restart replays nothing")
