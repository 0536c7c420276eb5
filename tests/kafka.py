"""A Kafka for tests: a broker of the session's own, or the one that WEIR_TEST_KAFKA names.

A test that needs it skips, with the reason, where none can be had; with `kafka` among the words of WEIR_REQUIRE it
fails instead. Every test makes topics of its own.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from load_tests.kafka_broker import BrokerError, KafkaBroker

WAIT_S = 30.0


def require_kafka(error: BrokerError) -> None:
    """Skip the calling test, or fail it under WEIR_REQUIRE=kafka."""
    if "kafka" in os.environ.get("WEIR_REQUIRE", "").replace(",", " ").split():
        pytest.fail(str(error))
    pytest.skip(str(error))


def own_broker(
    directory: Path,
    properties: Mapping[str, str] | None = None,
    port: int | None = None,
    users: Mapping[str, str] | None = None,
) -> KafkaBroker:
    """A started broker that a test may stop and kill; end it with `kill`."""
    broker = KafkaBroker(directory, properties, port, users)
    try:
        broker.start()
    except BrokerError as error:
        broker.kill()
        require_kafka(error)
    return broker


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap address of a broker that all tests of this process share."""
    given = os.environ.get("WEIR_TEST_KAFKA")
    if given:
        yield given
        return
    broker = own_broker(tmp_path_factory.mktemp("kafka"))
    try:
        yield broker.bootstrap
    finally:
        broker.kill()


def make_topic(
    bootstrap: str, name: str, partitions: int = 1, config: Mapping[str, str] | None = None, *, unique: bool = True
) -> str:
    """Make a topic, under a name that no other test has; returns the name."""
    topic = f"{name}-{uuid.uuid4().hex[:8]}" if unique else name
    wanted = {"message.timestamp.type": "LogAppendTime", **(config or {})}
    new = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=wanted)
    admin = AdminClient({"bootstrap.servers": bootstrap})  # must outlive its futures
    for made in admin.create_topics([new]).values():
        made.result(WAIT_S)
    for number in range(partitions):
        _bounds(bootstrap, topic, number)
    return topic


def _bounds(bootstrap: str, topic: str, number: int, isolation: str = "read_committed") -> tuple[int, int]:
    """First and end offset of a partition; waits until it has a leader, which a new one has not at once."""
    told = {"group.id": "bounds", "log_level": 0, "isolation.level": isolation}
    reader = Consumer({"bootstrap.servers": bootstrap, **told})
    deadline = time.monotonic() + WAIT_S
    try:
        while True:
            try:
                found = reader.get_watermark_offsets(TopicPartition(topic, number), timeout=WAIT_S)
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                assert found is not None
                return found
    finally:
        reader.close()


def send(
    bootstrap: str,
    topic: str,
    records: list[tuple[bytes | None, bytes]],
    partition: int | None = None,
    headers: list[tuple[str, bytes]] | None = None,
) -> None:
    """Append (key, value) records and wait until all stand there."""
    failed: list[object] = []

    def delivered(error: object, _message: object) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})
    told: Any = headers
    for key, value in records:
        while True:
            try:
                producer.produce(
                    topic, value, key, -1 if partition is None else partition, headers=told, on_delivery=delivered
                )
                break
            except BufferError:
                producer.poll(0.1)
    left = producer.flush(WAIT_S)
    assert not left, f"{left} records were not delivered to {topic}"
    assert not failed, failed


def read_all(bootstrap: str, topic: str, isolation: str = "read_committed") -> list[Message]:
    """Every record of a topic up to its present end, by an independent consumer; partitions one after the other."""
    told = {"group.id": "reader", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer({"bootstrap.servers": bootstrap, "isolation.level": isolation, **told})
    found: list[Message] = []
    try:
        partitions = consumer.list_topics(topic, timeout=WAIT_S).topics[topic].partitions
        for number in sorted(partitions):
            low, high = _bounds(bootstrap, topic, number, isolation)
            if low == high:
                continue
            consumer.assign([TopicPartition(topic, number, low)])
            position = low
            while position < high:
                for message in consumer.consume(10_000, timeout=1.0):
                    offset, error = message.offset(), message.error()
                    if message.partition() != number or offset is None:
                        continue
                    if error is not None and error.code() == KafkaError._PARTITION_EOF:
                        position = high  # the last ones may be marks of transactions, which nobody is shown
                    elif error is None:
                        if offset < high:
                            found.append(message)
                        position = offset + 1
    finally:
        consumer.close()
    return found
