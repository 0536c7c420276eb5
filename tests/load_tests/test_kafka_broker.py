from __future__ import annotations

from pathlib import Path

import pytest

from load_tests.kafka_broker import BrokerError, kafka_jars
from tests.kafka import make_topic, own_broker, read_all, send


def test_a_killed_broker_starts_again_with_its_records_on_its_port(tmp_path: Path) -> None:
    broker = own_broker(tmp_path / "kafka")
    try:
        topic = make_topic(broker.bootstrap, "kept", 2)
        send(broker.bootstrap, topic, [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")])
        broker.kill()
        broker.start()
        assert {message.value() for message in read_all(broker.bootstrap, topic)} == {b"1", b"2", b"3"}
    finally:
        broker.kill()


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError, match="needs java, found none on PATH; apt-get install"):
        kafka_jars()
