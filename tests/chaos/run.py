"""One whole run: starts the servers, the zygote and the attacks on several flows; collects results."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from transformers.utils import logging as transformers_logging

from flows.embedded.broker import Broker
from flows.embedded.milvus_lite import MilvusLiteServer
from tests.chaos.attack import Attack
from tests.chaos.kills import ROUND, Plan, draw_kills
from tests.chaos.report import Attacked, Outcome, figures
from tests.live.model import make_model
from tests.zygote import Zygote

PROGRESS_S = 15.0


def attack(kills: int, seed: int, flows: int = 2, tell: Callable[[str], None] = print) -> Outcome:
    """Kill processes of several flows, and check everything that readers saw.

    A clean run removes its directory; any other run keeps it and prints its path.

    Args:
        kills: How many kills.
        seed: Seed of the kills and the streams.
        flows: How many flows, each with its own Milvus.
        tell: Called with a line of progress now and then.
    """
    directory = Path(tempfile.mkdtemp(prefix="rowvec-chaos-"))
    began = time.monotonic()
    attacks: list[Attack] = []
    error: BaseException | None = None
    drawn = draw_kills(kills, seed)
    ended = threading.Event()
    teller = threading.Thread(target=_tell, args=(attacks, kills, ended, tell), daemon=True)
    try:
        teller.start()
        for first in range(0, kills, ROUND):
            plan = Plan(drawn[first : first + ROUND])
            _round(directory / f"from{first}", plan, seed + first, flows, attacks)
    except Exception as problem:
        error = problem
    finally:
        ended.set()
        teller.join()
    outcome = Outcome(
        kills=kills,
        seed=seed,
        seconds=time.monotonic() - began,
        abreast=flows,
        flows=[Attacked(each.name, each.toll, each.checker, each.stream) for each in attacks],
        error=error,
        directory=directory,
    )
    if outcome.clean:
        shutil.rmtree(directory)
    else:
        (directory / "figures.md").write_text(figures(outcome), "utf-8")
        tell(f"Everything is kept in {directory}")
    return outcome


def _round(directory: Path, plan: Plan, seed: int, flows: int, attacks: list[Attack]) -> None:
    directory.mkdir()
    with ExitStack() as stack:
        broker = Broker(directory / "broker")
        stack.callback(broker.stop)
        broker.start()
        servers = [MilvusLiteServer(directory / f"milvus{number}") for number in range(flows)]
        for server in servers:
            stack.callback(server.stop)
            server.start()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        model = make_model(directory / "model")
        zygote = stack.enter_context(Zygote(directory))
        stop = threading.Event()
        attackers = [
            Attack(
                directory / f"flow{len(attacks) + number}",
                zygote,
                broker,
                server.uri,
                model,
                seed * 100 + number,
                plan,
                stop,
            )
            for number, server in enumerate(servers)
        ]
        attacks += attackers
        pool = stack.enter_context(ThreadPoolExecutor(flows))
        stack.callback(stop.set)  # On an interrupt, end the attacks, since the pool waits for them.
        for future in [pool.submit(each.run) for each in attackers]:
            future.result()


def _tell(
    attacks: list[Attack], kills: int, ended: threading.Event, tell: Callable[[str], None]
) -> None:
    began = time.monotonic()
    while not ended.wait(PROGRESS_S):
        done = sum(len(each.toll.lives) for each in list(attacks))
        found = sum(each.checker.total for each in list(attacks))
        tell(f"{time.monotonic() - began:6.0f} s: {done} of {kills} kills, {found} violations")
