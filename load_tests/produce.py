"""Sends recorded events to the topics of a weir.toml, at a steady rate, to see a live flow work.

    python -m load_tests.produce --events DIR --config weir.toml [--rate 200] [--limit N]

The four streams are merged in event-time order; event times stay as recorded unless --now has each event happen when it
is sent (a late one as late as it was recorded): at a rate of ours, recorded days pass in minutes, and would lie in the
future. The rate is kept from outside: an event that the client takes late is sent at once, not later.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import orjson
from confluent_kafka import KafkaError, Message, Producer

from flows.config import Config, load_config
from flows.kafka_properties import kafka_properties
from flows.live_process import now_us, topic_of
from schemas.errors import StreamError
from schemas.times import format_rfc3339_us, parse_rfc3339_us

KEYS: Final = {
    "transactions": "account_id",
    "device_events": "device_id",
    "identity_events": "account_id",
    "outcomes": "transaction_id",
}
"""Key of each stream's records."""
_FLUSH_S: Final = 60.0


def events_of(path: Path, stream: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(event time, stream, record) of a .jsonl file; lines that hold no record are left out."""
    arrived_us = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                record = orjson.loads(line)
                # A late event is sent where it stands in the file, behind what came before it.
                arrived_us = max(arrived_us, parse_rfc3339_us(record["event_time"]))
            except (ValueError, KeyError, TypeError):
                continue
            yield arrived_us, stream, record


def merged(events: Path, streams: list[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """All events in order of arrival."""
    files = [(events / f"{stream}.jsonl", stream) for stream in streams]
    return heapq.merge(*(events_of(path, name) for path, name in files if path.is_file()), key=lambda one: one[0])


class Sender:
    """Producers of a configuration's streams, and how much they have delivered.

    Attributes:
        delivered: Records the broker has acknowledged.
        failed: Records it has not.
    """

    def __init__(self, config: Config, more: dict[str, Any] | None = None) -> None:
        self.delivered = 0
        self.failed = 0
        self._producers: dict[str, Producer] = {}
        self._streams: dict[str, tuple[Producer, str]] = {}
        for stream, url in config.streams.items():
            brokers = url.partition("://")[2].partition("/")[0]
            if brokers not in self._producers:
                self._producers[brokers] = Producer({**kafka_properties(config, brokers), **(more or {})})
            self._streams[stream] = (self._producers[brokers], topic_of(url))

    def send(self, stream: str, record: dict[str, Any]) -> None:
        """Hand a record over; what the broker says comes later."""
        producer, topic = self._streams[stream]
        key = str(record.get(KEYS[stream], ""))
        while True:
            try:
                producer.produce(topic, orjson.dumps(record), key, on_delivery=self._told)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)

    def _told(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.delivered += 1
        else:
            self.failed += 1

    def finish(self) -> None:
        """Wait for what was handed over.

        Raises:
            StreamError: Some of it was not delivered.
        """
        waiting = sum(producer.flush(_FLUSH_S) for producer in self._producers.values())
        if waiting or self.failed:
            message = f"{self.failed + waiting} records were not delivered; is the broker up, do the topics exist?"
            raise StreamError(message)


def paced(rate: float, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> Any:
    """A function that returns when the next record is due."""
    started = clock()
    number = 0

    def wait() -> None:
        nonlocal number
        left = started + number / rate - clock()
        number += 1
        if left > 0:
            sleep(left)

    return wait


def moved(record: dict[str, Any], by: timedelta) -> dict[str, Any]:
    """The record at another event time."""
    at_us = parse_rfc3339_us(record["event_time"]) + by // timedelta(microseconds=1)
    return {**record, "event_time": format_rfc3339_us(at_us)}


def main(words: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=Path, required=True, help="folder of .jsonl streams")
    parser.add_argument("--config", type=Path, required=True, help="weir.toml: where the topics are")
    parser.add_argument("--rate", type=float, default=200.0, help="events a second")
    parser.add_argument("--limit", type=int, help="so many events at the most")
    parser.add_argument("--now", action="store_true", help="each event happens when it is sent")
    options = parser.parse_args(words)
    config = load_config(options.config)
    if config.wire.format != "json":
        parser.error(f"{options.config}: wire.format is {config.wire.format!r}; this program sends json only")
    sender = Sender(config)
    wait = paced(options.rate)
    sent = 0
    for arrived_us, stream, record in merged(options.events, [name for name in KEYS if name in config.streams]):
        if options.limit is not None and sent >= options.limit:
            break
        wait()
        sender.send(stream, moved(record, timedelta(microseconds=now_us() - arrived_us)) if options.now else record)
        sent += 1
    try:
        sender.finish()
    except StreamError as error:
        print(f"produce: {error}", file=sys.stderr)
        return 1
    print(f"produce: {sent:,} records sent and acknowledged", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
