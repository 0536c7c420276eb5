"""The load of the live kill campaign: payments without an end, some of them sent twice, and none given up.

Generated traffic is sent again and again under new ids, each event at the moment of its sending. The producer is
idempotent and waits out a broker that is gone, so what the topics hold is known: every record once, retries apart.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

import orjson
from confluent_kafka import KafkaError, Message, Producer

from load_tests.open_loop import PAYMENTS, Event
from load_tests.produce import KEYS, moved

_RETRIES: Final = 0.02
"""Share of payments sent again, as a client does that got no answer."""
_LATER: Final = 400
"""A retry repeats one of so many payments before it: within seconds, and over a kill as often as not."""
_IDS: Final = ("transaction_id", "event_id")


class Load(threading.Thread):
    """Sends at a steady rate until it is told to end.

    Attributes:
        sent: Transaction id -> copies that the broker has taken.
        failed: Records that it has not, which must be none.
    """

    def __init__(self, bootstrap: str, topics: Mapping[str, str], events: list[Event], rate: float, seed: int) -> None:
        """Prepare.

        Args:
            bootstrap: Brokers.
            topics: Topic by stream.
            events: In order of arrival; repeated under new ids when they are over.
            rate: Events a second.
            seed: Chooses the retries.
        """
        super().__init__(name="load", daemon=True)
        self.sent: Counter[str] = Counter()
        self.failed = 0
        self._topics = topics
        self._events = events
        self._rate = rate
        self._rng = random.Random(seed)
        self._done = threading.Event()
        told = {"enable.idempotence": True, "acks": "all", "message.timeout.ms": 0, "linger.ms": 5}
        room = {"queue.buffering.max.messages": 1_000_000, "reconnect.backoff.max.ms": 1_000, "log_level": 0}
        self._producer = Producer({"bootstrap.servers": bootstrap, **told, **room})

    def run(self) -> None:
        """Send what is due; after a stall of this thread the rest at once."""
        started = time.monotonic()
        earlier: deque[tuple[str, bytes, str]] = deque(maxlen=_LATER)
        for number, (arrived_us, stream, record) in enumerate(self._endless()):
            wait_s = started + number / self._rate - time.monotonic()
            if wait_s > 0 and self._done.wait(wait_s):
                break
            if self._done.is_set():
                break
            now = moved(record, timedelta(microseconds=time.time_ns() // 1_000 - arrived_us))
            value, key = orjson.dumps(now), str(now.get(KEYS[stream], ""))
            if stream == PAYMENTS:
                self._send(stream, value, key, now["transaction_id"])
                earlier.append((now["transaction_id"], value, key))
                if self._rng.random() < _RETRIES:
                    name, value, key = self._rng.choice(earlier)
                    self._send(stream, value, key, name)
            else:
                self._send(stream, value, key, None)
            self._producer.poll(0)
        left = 1
        while left:
            left = self._producer.flush(1.0)

    def _endless(self) -> Iterator[Event]:
        turn = 0
        while True:
            for arrived_us, stream, record in self._events:
                ids: dict[str, Any] = {name: f"{record[name]}-{turn}" for name in _IDS if name in record}
                yield arrived_us, stream, {**record, **ids}
            turn += 1

    def _send(self, stream: str, value: bytes, key: str, name: str | None) -> None:
        def told(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                self.failed += 1
            elif name is not None:
                self.sent[name] += 1

        while True:
            try:
                self._producer.produce(self._topics[stream], value, key, on_delivery=told)
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def end(self) -> None:
        """Send nothing more, and wait until the broker has taken all."""
        self._done.set()
        self.join()


def told_of(record: Mapping[str, Any]) -> str:
    """A decision's content, all but whether it answers a retry."""
    return orjson.dumps({**record, "duplicate": False}, option=orjson.OPT_SORT_KEYS).decode()
