"""Sends the stream of changes to the broker, no faster than the flow keeps up."""

import random
import threading
from collections.abc import Callable
from typing import Any

from confluent_kafka import Message, Producer

from flows.embedded.broker import Broker
from tests.chaos.stream import PARTITIONS, Stream

BACKLOG = 3_000
"""Most records that may wait for the flow; sending pauses above it."""


class Feeder:
    """Sends a stream to a topic, no faster than the flow keeps up.

    Args:
        broker: Has the topic.
        topic: An empty topic.
        stream: What to send.
        seed: Seed of the pauses and of the number of changes sent at once.
        seen: Returns how many records the flow is known to have processed.
    """

    def __init__(
        self, broker: Broker, topic: str, stream: Stream, seed: int, seen: Callable[[], int]
    ) -> None:
        self._topic, self._stream, self._seen = topic, stream, seen
        self._draw = random.Random(seed)
        self._producer = Producer(
            {
                "bootstrap.servers": broker.bootstrap_servers,
                "max.in.flight": 1,
                "linger.ms": 2,
                "queue.buffering.max.messages": 1_000_000,
                "log_level": 2,
            }
        )
        self._offsets = [0] * PARTITIONS
        self._problem: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"feeder-{topic}", daemon=True)

    def start(self) -> None:
        """Start sending; the first changes are in the topic when this returns."""
        self._send(200)
        assert self._producer.flush(30) == 0
        self._thread.start()

    def stop(self) -> None:
        """Stop sending, and wait until everything taken from the stream is in the topic."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        assert self._producer.flush(30) == 0
        self.check()

    def check(self) -> None:
        """Raise AssertionError if the broker refused a record or gave it an unexpected offset."""
        assert self._problem is None, self._problem

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._draw.uniform(0.01, 0.1)):
                # Mostly a trickle, rarely a burst. Sometimes a single change although the backlog is
                # full: if all waiting records are stale, none becomes visible and `seen` never rises.
                wanted = 1_500 if self._draw.random() < 0.01 else self._draw.randrange(1, 20)
                room = BACKLOG - (self._stream.truth.records - self._seen())
                if room > 0 or self._draw.random() < 0.1:
                    self._send(max(1, min(wanted, room)))
                self._producer.poll(0)
        except BaseException as error:
            self._problem = self._problem or f"the feeder ended by {error!r}"

    def _send(self, changes: int) -> None:
        for partition, key, value in self._stream.take(changes):
            self._producer.produce(self._topic, value, key, partition, on_delivery=self._delivered)

    def _delivered(self, error: Any, message: Message) -> None:
        partition = message.partition() or 0
        if error is not None:
            self._problem = f"a record was not taken: {error}"
        elif message.offset() != self._offsets[partition]:
            self._problem = f"offset {message.offset()}, expected {self._offsets[partition]}"
        self._offsets[partition] += 1
