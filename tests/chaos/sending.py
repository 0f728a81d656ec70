"""The stream on its way to the broker, as long as the flow keeps up with it."""

import random
import threading
from collections.abc import Callable
from typing import Any

from confluent_kafka import Message, Producer

from flows.embedded.broker import Broker
from tests.chaos.stream import PARTITIONS, Stream

BACKLOG = 3_000
"""Records that may wait for the flow; the stream goes on as soon as there are fewer."""


class Feeder:
    """Sends a stream to a topic as long as the flow keeps up with it.

    Args:
        broker: Has the topic.
        topic: Empty so far.
        stream: What to send.
        seed: Of the pauses and the sizes of what is sent at once.
        seen: How many records the flow is known to have passed.
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
        """Begin; some of it is in the topic when this returns."""
        self._send(200)
        assert self._producer.flush(30) == 0
        self._thread.start()

    def stop(self) -> None:
        """End when all that was taken from the stream is in the topic."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        assert self._producer.flush(30) == 0
        self.check()

    def check(self) -> None:
        """Raises AssertionError if the broker did not do as the truth has it."""
        assert self._problem is None, self._problem

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._draw.uniform(0.01, 0.1)):
                # Mostly a trickle, at times a flood; a drop always: what waits may all be stale, and
                # then nothing of it comes into sight.
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
