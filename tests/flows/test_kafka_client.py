"""What clients hear of their brokers: counted, told once a minute, kept where it ends the run."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from flows.kafka_client import TELL_EVERY_S, BrokerWatch
from flows.live_hooks import NoHooks
from schemas.errors import StreamError

DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "2/2 brokers are down")
UNKNOWN = KafkaError(KafkaError._UNKNOWN_TOPIC, "no such topic")
DENIED = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "denied")


class Heard(NoHooks):
    def __init__(self) -> None:
        self.errors: list[str] = []
        self.up: list[bool] = []

    def broker_up(self, side: str, up: bool, /) -> None:
        self.up.append(up)

    def broker_error(self, side: str, error: str, /) -> None:
        self.errors.append(error)


def test_an_outage_is_counted_each_time_told_once_a_minute_and_its_end_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [1_000.0]
    monkeypatch.setattr("flows.kafka_client.time.monotonic", lambda: now[0])
    heard = Heard()
    watch = BrokerWatch("inputs", "a:1", heard)

    def told() -> list[str]:
        return capfd.readouterr().err.splitlines()

    for _ in range(100):
        watch.hear(DOWN)
        now[0] += 0.5
    assert told() == ["weir: inputs a:1: no broker answers (2/2 brokers are down); trying again for ever"]
    now[0] += TELL_EVERY_S
    watch.hear(DOWN)
    assert len(told()) == 1
    assert heard.errors == ["_ALL_BROKERS_DOWN"] * 101
    assert heard.up == [False] * 101
    watch.check()  # an outage ends nothing
    watch.up()
    assert told() == ["weir: inputs a:1: the broker answers again"]
    watch.hear(DOWN)
    assert len(told()) == 1  # of the next outage at once
    watch.up()
    watch.up()
    assert len(told()) == 1


def test_what_no_retry_cures_ends_the_run_and_what_passes_does_not() -> None:
    watch = BrokerWatch("outputs", "a:1", Heard())
    watch.hear(UNKNOWN)  # a broker that restarts may not know its topics for a moment
    watch.check()
    watch.hear(DENIED)
    watch.hear(DOWN)
    with pytest.raises(StreamError, match=r"outputs a:1: TOPIC_AUTHORIZATION_FAILED: denied; an ACL denies the topic"):
        watch.check()
