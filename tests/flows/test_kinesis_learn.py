"""`weir learn` over streams of Kinesis, its dead letters in Kafka: labels once, and the same model after kills."""

from __future__ import annotations

import random
import time
import uuid
from pathlib import Path
from typing import Any

import orjson

from load_tests.kinesis_local import KinesisLocal, Tail, merge, split
from tests.flows.kinesis_node import kinesis
from tests.flows.live import kill, stop, wait_until
from tests.flows.test_kafka_learn import Learning, _decisions, _learned, _outcome, _profile, _tells_of_the_last
from tests.kafka import make_topic

__all__ = ["kinesis"]

STREAMS = ("decisions", "outcomes", "labelled_outcomes")


class KinesisLearning(Learning):
    """A learning flow's streams and state; its dead letters go to a topic of Kafka."""

    def __init__(self, server: KinesisLocal, bootstrap: str, directory: Path, profile: Path) -> None:
        self.server = server
        self.bootstrap = bootstrap
        self.topics = {name: f"{name.replace('_', '-')}-{uuid.uuid4().hex[:8]}" for name in STREAMS}
        for name in self.topics.values():
            server.make(name, 2)
        self.topics["dead_letters"] = make_topic(bootstrap, "dead_letters")
        self._tail = Tail(server.client, self.topics["labelled_outcomes"])
        urls = {name: server.url(self.topics[name], 200) for name in STREAMS}
        self.told: dict[str, Any] = {"profile": str(profile), "state": str(directory / "learn"), "settle_s": 2.0}
        self.told["inputs"] = {name: urls.pop(name) for name in ("decisions", "outcomes")}
        self.told["outputs"] = {**urls, "dead_letters": f"kafka://{bootstrap}/{self.topics['dead_letters']}"}

    def send(self, name: str, records: list[dict[str, Any]]) -> None:
        told = [{"PartitionKey": one["transaction_id"], "Data": orjson.dumps(one)} for one in records]
        for first in range(0, len(told), 100):
            answer = self.server.client.put_records(StreamName=self.topics[name], Records=told[first : first + 100])
            assert not answer["FailedRecordCount"]

    def labels(self) -> list[dict[str, Any]]:
        return [orjson.loads(record["Data"]) for _, record in self._tail.look()]


def _last(learning: Learning, decision: dict[str, Any]) -> None:
    learning.send("decisions", [{**decision, "transaction_id": "last"}])
    learning.send("outcomes", [{**_outcome(decision, 10**6, "fraud"), "transaction_id": "last"}])


def test_a_killed_learner_over_kinesis_publishes_once_and_ends_with_the_same_model_bytes(
    kinesis: KinesisLocal, kafka: str, tmp_path: Path
) -> None:
    profile = _profile(tmp_path / "profile", maturity="4s")
    decisions = _decisions(profile, tmp_path, 180)
    learning = KinesisLearning(kinesis, kafka, tmp_path, profile)
    rng = random.Random(6)
    running = learning.start(unmatched_s=3.0)
    learning.send("outcomes", [{**_outcome(decisions[0], 7, "fraud"), "transaction_id": "nobody-knows-it"}])
    for start in range(0, len(decisions), 60):
        learning.send("decisions", decisions[start : start + 60])
        frauds = [one for one in decisions[max(0, start - 60) : start + 60] if rng.random() < 0.3]
        learning.send("outcomes", [_outcome(one, start * 1000 + at, "fraud") for at, one in enumerate(frauds)])
        time.sleep(rng.uniform(0.5, 1.5))
        if start == 60:
            wait_until(running, learning.labels)
            kill(running)
            running = learning.start(unmatched_s=3.0)
    time.sleep(5.0)
    _last(learning, decisions[0])
    wait_until(running, _tells_of_the_last(learning))
    stop(running)
    labels = learning.labels()
    identities = [(one["transaction_id"], one["source"], one["event_time"]) for one in labels]
    assert len(set(identities)) == len(identities)
    (dead,) = learning.dead_letters()  # an outcome that was held with its sequence number tells it
    assert (dead["reason"], dead["topic"]) == ("UNMATCHED_OUTCOME", f"kinesis:{learning.topics['outcomes']}")
    assert dead["offset"] == -1
    assert len(dead["sequence"]) == 56
    # An uninterrupted run over the same streams, with outputs and a state of its own.
    second = KinesisLearning(kinesis, kafka, tmp_path / "second", profile)
    second.told["inputs"] = learning.told["inputs"]
    undisturbed = second.start(unmatched_s=3.0)
    wait_until(undisturbed, _tells_of_the_last(second))
    stop(undisturbed)
    assert sorted(map(orjson.dumps, second.labels())) == sorted(map(orjson.dumps, labels))
    assert _learned(second) == _learned(learning)


def test_labels_are_published_once_while_decisions_outcomes_and_labels_are_resharded(
    kinesis: KinesisLocal, kafka: str, tmp_path: Path
) -> None:
    profile = _profile(tmp_path / "profile", maturity="1h")
    decisions = [one for one in _decisions(profile, tmp_path, 90) if not one["duplicate"]]
    learning = KinesisLearning(kinesis, kafka, tmp_path, profile)
    running = learning.start()
    third = len(decisions) // 3
    for turn, reshard in enumerate((split, merge, None)):
        part = decisions[turn * third : (turn + 1) * third]
        learning.send("decisions", part)
        if reshard is not None:
            for name in STREAMS:
                reshard(kinesis.client, learning.topics[name])
        learning.send("outcomes", [_outcome(one, turn * 1000 + at, "fraud") for at, one in enumerate(part)])
        learning.send("outcomes", [_outcome(one, 5000 + turn, "genuine", "analyst") for one in part[:1]])
        if reshard is split:
            wait_until(running, learning.labels)
            kill(running)
            running = learning.start()
    wait_until(running, lambda: len(learning.labels()) >= 3 * third + 3)
    stop(running)
    told = [(one["transaction_id"], one["label"]) for one in learning.labels()]
    assert len(told) == len(set(told)) == 3 * third + 3
    assert not learning.dead_letters()
    for turn in range(3):  # a correction stands behind what it corrects, also across a reshard
        said = [label for name, label in told if name == decisions[turn * third]["transaction_id"]]
        assert said == ["fraud", "genuine"]
