"""`weir learn` over a real Kafka: what a label is joined to, what matures, and what a kill leaves as it was."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from operators.record_formats import format_of
from state.raw import RawShard, shard_names_in
from tests.flows.learning_loop import SECRET
from tests.flows.live import STARTED, kill, stop, value_of, wait_until
from tests.flows.running import Replay, ended
from tests.flows.traffic import decisions as decisions_of
from tests.flows.traffic import write_events, write_profile
from tests.kafka import make_topic, read_all, send


class Learning:
    """A learning flow's topics and state."""

    def __init__(self, bootstrap: str, directory: Path, profile: Path, partitions: int = 2) -> None:
        self.bootstrap = bootstrap
        names = ("decisions", "outcomes", "labelled_outcomes", "dead_letters")
        self.topics = {name: make_topic(bootstrap, name, partitions) for name in names}
        self.told: dict[str, Any] = {"profile": str(profile), "state": str(directory / "learn")}
        url = f"kafka://{bootstrap}/"
        self.told["inputs"] = {name: url + self.topics[name] for name in names[:2]}
        self.told["outputs"] = {name: url + self.topics[name] for name in names[2:]}

    def announces(self, directory: Path, read: str | None = None) -> None:
        """Let it release models and raise alerts; `read` is the topic of releases it reads back, its own by default."""
        self.topics["models"] = make_topic(self.bootstrap, "models", 1, {"cleanup.policy": "compact"})
        self.topics["alerts"] = make_topic(self.bootstrap, "alerts", 1)
        url = f"kafka://{self.bootstrap}/"
        self.told["inputs"] = {**self.told["inputs"], "models": url + (read or self.topics["models"])}
        self.told["outputs"] |= {name: url + self.topics[name] for name in ("models", "alerts")}
        directory.mkdir(exist_ok=True)
        (directory / "keys.toml").write_text(f'active = "k1"\n[keys.k1]\nsecret = "{SECRET}"\n')
        self.told |= {"artefacts": f"file://{directory}/artefacts", "keys": str(directory / "keys.toml")}

    def read(self, name: str) -> list[dict[str, Any]]:
        return [value_of(message) for message in read_all(self.bootstrap, self.topics[name])]

    def start(self, **told: Any) -> list[subprocess.Popen[str]]:
        words = [sys.executable, "-m", "tests.flows.learn_member", json.dumps({**self.told, **told})]
        started = subprocess.Popen(
            words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        STARTED.append(started)
        return [started]

    def send(self, name: str, records: list[dict[str, Any]]) -> None:
        lines = [(record["transaction_id"].encode(), orjson.dumps(record)) for record in records]
        send(self.bootstrap, self.topics[name], lines)

    def labels(self) -> list[dict[str, Any]]:
        return [value_of(message) for message in read_all(self.bootstrap, self.topics["labelled_outcomes"])]

    def dead_letters(self) -> list[dict[str, Any]]:
        return [value_of(message) for message in read_all(self.bootstrap, self.topics["dead_letters"])]


def _profile(directory: Path, maturity: str = "6h", tick: str = "1s") -> Path:
    profile = write_profile(directory)
    text = (profile / "learning.toml").read_text()
    text = text.replace('tick = "1h"', f'tick = "{tick}"').replace('maturity = "6h"', f'maturity = "{maturity}"')
    (profile / "learning.toml").write_text(text.replace("min_labels = 50", "min_labels = 20"))
    return profile


def _decisions(profile: Path, directory: Path, payments: int) -> list[dict[str, Any]]:
    """Decisions as a replay makes them, retries' answers among them."""
    events = write_events(directory / "events", payments=payments)
    (events / "outcomes.jsonl").write_bytes(b"")
    replayed = Replay(profile, events, directory / "replay")
    assert ended(replayed.start())[0] == 0
    return decisions_of(replayed.out)


def _outcome(decision: dict[str, Any], number: int, label: str, source: str = "chargeback") -> dict[str, Any]:
    return {
        "outcome_id": f"O{number:06d}",
        "event_time": decision["event_time"],
        "transaction_id": decision["transaction_id"],
        "label": label,
        "source": source,
    }


def test_a_label_meets_the_features_that_were_scored_whichever_came_first(kafka: str, tmp_path: Path) -> None:
    profile = _profile(tmp_path / "profile")
    decisions = _decisions(profile, tmp_path, 200)
    learning = Learning(kafka, tmp_path, profile)
    firsts = {one["transaction_id"]: one for one in decisions if not one["duplicate"]}
    chosen = list(firsts.values())[:40]
    early, late = chosen[:20], chosen[20:]
    learning.send("outcomes", [_outcome(one, at, "fraud") for at, one in enumerate(early)])
    running = learning.start()
    learning.send("decisions", decisions)
    learning.send("outcomes", [_outcome(one, 100 + at, "fraud") for at, one in enumerate(late)])
    learning.send("outcomes", [_outcome(one, 100 + at, "fraud") for at, one in enumerate(late)])  # told twice
    learning.send("outcomes", [_outcome(chosen[0], 300, "genuine", "analyst")])
    wait_until(running, lambda: len(learning.labels()) >= 41)
    stop(running)
    labels = learning.labels()
    assert len(labels) == 41
    for label in labels:
        decision = firsts[label["transaction_id"]]
        for name in ("features", "versions", "score", "action", "decision_id", "account_id", "decided_at"):
            assert label[name] == decision[name], name
    corrections = [one for one in labels if one["correction_of"]]
    assert [(one["transaction_id"], one["label"]) for one in corrections] == [(chosen[0]["transaction_id"], "genuine")]
    assert corrections[0]["correction_of"].startswith("fraud ")


def test_payments_mature_by_the_topic_that_is_behind_and_unmatched_outcomes_are_buried(
    kafka: str, tmp_path: Path
) -> None:
    profile = _profile(tmp_path / "profile", maturity="2s")
    decisions = [one for one in _decisions(profile, tmp_path, 150) if not one["duplicate"]]
    learning = Learning(kafka, tmp_path, profile, partitions=1)
    running = learning.start(unmatched_s=3.0)
    learning.send("decisions", decisions)
    learning.send("outcomes", [{**_outcome(decisions[0], 1, "fraud"), "transaction_id": "nobody-knows-it"}])
    time.sleep(5.0)
    learning.send("decisions", [{**decisions[1], "transaction_id": "much-later"}])
    time.sleep(1.5)
    assert not learning.labels(), "payments matured although no outcome came: theirs is the watermark that counts"
    learning.send("outcomes", [_outcome(decisions[0], 2, "fraud")])
    wait_until(running, lambda: len(learning.labels()) >= 30 and learning.dead_letters())
    stop(running)
    labels = learning.labels()
    matured = [one for one in labels if one["source"] == "maturity"]
    assert {one["label"] for one in matured} == {"genuine"}
    assert {one["weight"] for one in matured} == {2.0}
    assert 40 < len(matured) < 110  # half of 150, chosen by hash
    assert [one["reason"] for one in learning.dead_letters()] == ["UNMATCHED_OUTCOME"]
    assert len({one["transaction_id"] for one in labels if not one["correction_of"]}) >= len(matured)


def test_a_killed_learner_publishes_once_and_ends_with_the_same_models_and_moves(kafka: str, tmp_path: Path) -> None:
    profile = _profile(tmp_path / "profile", maturity="4s")
    decisions = [_scored(one) for one in _decisions(_challenged(profile), tmp_path, 600)]
    learning = Learning(kafka, tmp_path, profile)
    learning.announces(tmp_path)
    rng = random.Random(5)
    running = learning.start()
    for start in range(0, len(decisions), 60):
        learning.send("decisions", decisions[start : start + 60])
        around = decisions[max(0, start - 60) : start + 60]
        frauds = [one for one in around if _is_fraud(one) and rng.random() < 0.7]
        learning.send("outcomes", [_outcome(one, start * 1000 + at, "fraud") for at, one in enumerate(frauds)])
        time.sleep(rng.uniform(0.3, 1.2))
        if start and start % 120 == 0:
            kill(running)
            running = learning.start()
    time.sleep(5.0)
    learning.send("decisions", [{**decisions[0], "transaction_id": "last"}])
    learning.send("outcomes", [{**_outcome(decisions[0], 10**6, "fraud"), "transaction_id": "last"}])
    wait_until(running, _tells_of_the_last(learning))
    stop(running)
    labels = learning.labels()
    identities = [(one["transaction_id"], one["source"], one["event_time"]) for one in labels]
    assert len(set(identities)) == len(identities)
    # An uninterrupted run over the same topics, with outputs and a state of its own.
    second = Learning(kafka, tmp_path / "second", profile)
    second.told["inputs"] = learning.told["inputs"]
    second.announces(tmp_path / "second", read=learning.topics["models"])
    undisturbed = second.start()
    wait_until(undisturbed, _tells_of_the_last(second))
    stop(undisturbed)

    def content(one: dict[str, Any]) -> str:
        return json.dumps(one, sort_keys=True)

    assert sorted(map(content, second.labels())) == sorted(map(content, labels))
    learned, anew = _learned(learning), _learned(second)
    assert {b"Mtest-linear", b"Mrival", b"R", b"D"} < learned.keys()
    assert learned == anew
    released, again = _released(learning), _released(second)
    assert len(set(released)) == len(released)
    assert {one[0] for one in released} == {"test-linear", "rival"}
    assert released == again
    assert any(one[3:5] == ("promote", "automatic") for one in released)
    alerts = [one["alert_id"] for one in learning.read("alerts")]
    assert any(one["kind"] == "model_promoted" for one in learning.read("alerts"))
    assert len(set(alerts)) == len(alerts)
    assert sorted(alerts) == sorted(one["alert_id"] for one in second.read("alerts"))


def _tells_of_the_last(learning: Learning) -> Callable[[], bool]:
    return lambda: any(one["transaction_id"] == "last" for one in learning.labels())


def _challenged(profile: Path) -> Path:
    """With a challenger that is better at once, criteria in seconds, and drift watched."""
    text = (profile / "learning.toml").read_text()
    rival = text.partition("[model]")[2].replace('id = "test-linear"', 'id = "rival"')
    loop = """
[canary]
model = "rival"
share = 0.3
salt = "s"
[promotion]
block = "1s"
min_frauds = 1
level = 0.5
rollback_level = 0.5
period = "2s"
[drift]
sample = 0.5
"""
    (profile / "learning.toml").write_text(f"{text}\n[[challengers]]\n{rival}\nlearning_rate = 0.5\n{loop}")
    return profile


def _is_fraud(decision: dict[str, Any]) -> bool:
    return sum(str(decision["transaction_id"]).encode()) % 5 == 0


def _scored(decision: dict[str, Any]) -> dict[str, Any]:
    """As if the models had known something: the rival nearly all, the champion nothing."""
    said = {"test-linear": 0.5, "rival": 0.9 if _is_fraud(decision) else 0.1}
    (shadow,) = decision["challenger_scores"]
    told = [{**shadow, "score": said[shadow["model_id"]]}]
    return {**decision, "score": said[decision["versions"]["model_id"]], "challenger_scores": told}


def _learned(learning: Learning) -> dict[bytes, bytes]:
    """Records of the step that learns, of a stopped flow; but what it has heard of models.v1, of which a stop may come
    before the last."""
    state = Path(learning.told["state"])
    found: dict[bytes, bytes] = {}
    for name in shard_names_in(state / "shards"):
        with RawShard(state / "shards" / name, None, format_of) as raw:
            if "learn" in raw.steps:
                found |= dict(raw.records("learn", b"A", b"Z"))
    return {key: record for key, record in found.items() if key != b"H"}


def _released(learning: Learning) -> list[tuple[Any, ...]]:
    names = ("model_id", "version", "stage", "change", "origin", "sha256", "created_at")
    return sorted(tuple(one[name] for name in names) for one in learning.read("models"))
