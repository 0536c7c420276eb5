"""Released models over a real broker: loaded beside the flow, swapped in, refused where they are not to be trusted."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.live_hooks import NoHooks
from flows.profile import Profile, load_profile
from flows.releases import Announcer, ModelFeed, Releasing, history, read_log
from flows.streams import KafkaStream
from flows.watchdog import Pulse
from operators.model import Model
from operators.releases import Release, Stage, freeze_record
from schemas.errors import BackupError
from schemas.wire import JsonDecoder, JsonEncoder
from state.artefacts import ArtefactStore
from state.keys import ModelKeys
from tests.flows.test_config import written
from tests.flows.traffic import write_profile
from tests.kafka import make_topic, send
from tests.operators.test_releases import keys

WAIT_S = 30.0


class _Heard(NoHooks):
    def __init__(self) -> None:
        self.refused: list[str] = []
        self.loaded: list[str] = []

    def model_refused(self, reason: str, /) -> None:
        self.refused.append(reason)

    def model_loaded(self, model_id: str, size_bytes: int, seconds: float, /) -> None:
        assert size_bytes > 0
        assert seconds > 0
        self.loaded.append(model_id)


class Shop:
    """A topic of releases, an artefact store, and who may release."""

    def __init__(self, kafka: str, directory: Path) -> None:
        self.profile: Profile = load_profile(write_profile(directory / "p"))
        self.keys: ModelKeys = keys("k1")
        self.topic = make_topic(kafka, "models", 1, {"cleanup.policy": "compact"})
        stream = KafkaStream((kafka,), self.topic)
        self.store = ArtefactStore(f"file://{directory}/artefacts")
        self.told = Releasing(stream, {}, JsonDecoder(), JsonEncoder(), self.keys, self.store)
        self.bootstrap = kafka
        self.heard = _Heard()

    def trained(self, labels: int = 60) -> Model:
        (restore,) = self.profile.restorers().values()
        model = restore(None)
        width = len(self.profile.features.features)
        for number in range(labels):
            values: list[Any] = [None] * width
            values[0] = float(number)
            model.learn_one(values, number % 3 == 0, 1.0)
        return model

    def release(self, model: Model, stage: Stage = "champion", **changed: Any) -> Release:
        sha256 = self.store.put(model.to_bytes())
        features = self.profile.features
        version = f"{model.version}+{model.labels}"
        where, now_us = self.store.uri(sha256), time.time_ns() // 1_000
        made = Release(model.id, version, stage, features.id, features.hash, {}, where, sha256, now_us)
        return Announcer(self.told).announce(replace(made, **changed))

    def feed(self) -> ModelFeed:
        features = self.profile.features
        return ModelFeed(self.told, self.profile.restorers(), features.hash, None, self.heard, lambda: False, Pulse())


@pytest.fixture
def shop(kafka: str, tmp_path: Path) -> Shop:
    return Shop(kafka, tmp_path)


@pytest.fixture
def feed(shop: Shop) -> Iterator[ModelFeed]:
    made = shop.feed()
    yield made
    made.close()


def _until(said: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not said():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def _labels(feed: ModelFeed) -> int | None:
    roster = feed.roster()
    return None if roster is None else roster.models[roster.champion].labels


def test_a_release_is_served_as_soon_as_it_is_announced_and_overruled_by_the_next(shop: Shop, feed: ModelFeed) -> None:
    assert feed.roster() is None
    model = shop.trained(60)
    first = shop.release(model)
    _until(lambda: _labels(feed) == 60)
    assert feed.sha256(model.id) == first.sha256
    roster = feed.roster()
    assert roster is not None
    values: list[Any] = [None] * len(shop.profile.features.features)
    assert roster.models[model.id].score_one(values) == model.score_one(values)
    assert roster.models[model.id].to_bytes() == model.to_bytes()
    shop.release(shop.trained(80))
    _until(lambda: _labels(feed) == 80)
    assert shop.heard.refused == []
    assert len(shop.heard.loaded) == 2


def test_a_start_serves_the_last_release_before_anything_else(shop: Shop) -> None:
    for labels in (60, 70):
        shop.release(shop.trained(labels))
    feed = shop.feed()
    assert _labels(feed) == 70
    feed.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("unsigned", "NOT_SIGNED"),
        ("forged", "BAD_SIGNATURE"),
        ("garbage", "BAD_RECORD"),
        ("altered artefact", "WRONG_HASH"),
        ("no artefact", "NO_ARTEFACT"),
        ("another feature set", "OTHER_FEATURE_SET"),
        ("another model", "UNKNOWN_MODEL"),
        ("no model in it", "BAD_ARTEFACT"),
    ],
)
def test_what_cannot_be_trusted_or_does_not_fit_is_refused_and_the_last_champion_serves_on(
    shop: Shop, feed: ModelFeed, fault: str, reason: str
) -> None:
    good = shop.release(shop.trained(60))
    _until(lambda: _labels(feed) == 60)
    worse = shop.trained(90)
    record = replace(good, version="2", created_at_us=good.created_at_us + 1, signature="").record()
    if fault == "unsigned":
        send(shop.bootstrap, shop.topic, [(b"k", JsonEncoder()("model_release", record)[0])])
    elif fault == "forged":
        forged = replace(good, version="2", created_at_us=good.created_at_us + 1).signed(keys("k2"))
        send(shop.bootstrap, shop.topic, [(b"k", JsonEncoder()("model_release", forged.record())[0])])
    elif fault == "garbage":
        send(shop.bootstrap, shop.topic, [(b"k", b"{}"), (b"l", b"\xff\x00")])
    elif fault == "altered artefact":
        path = Path(shop.store.url.removeprefix("file://")) / "artefacts" / shop.store.put(worse.to_bytes())
        path.write_bytes(worse.to_bytes()[:-1] + b"\x01")
        Announcer(shop.told).announce(replace(good, sha256=path.name, created_at_us=good.created_at_us + 1))
    elif fault == "no artefact":
        Announcer(shop.told).announce(replace(good, sha256="0" * 64, created_at_us=good.created_at_us + 1))
    elif fault == "another feature set":
        shop.release(worse, feature_set_hash="e" * 64)
    elif fault == "another model":
        shop.release(worse, model_id="somebody")
    else:
        Announcer(shop.told).announce(
            replace(good, sha256=shop.store.put(b"not a model"), created_at_us=good.created_at_us + 1)
        )
    _until(lambda: reason in shop.heard.refused)
    assert _labels(feed) == 60
    shop.release(shop.trained(95))
    _until(lambda: _labels(feed) == 95)


def test_an_artefact_store_that_is_away_for_a_while_is_asked_again(
    shop: Shop, feed: ModelFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.releases._RETRY_S", 0.2)
    first = shop.release(shop.trained(60))
    _until(lambda: _labels(feed) == 60)
    artefact = shop.trained(70).to_bytes()
    sha256 = shop.store.put(artefact)
    monkeypatch.setattr(ArtefactStore, "get", lambda *_: _away())
    Announcer(shop.told).announce(replace(first, version="1+70", sha256=sha256, created_at_us=first.created_at_us + 1))
    _until(lambda: "STORE_UNREACHABLE" in shop.heard.refused)
    assert _labels(feed) == 60
    monkeypatch.undo()
    _until(lambda: _labels(feed) == 70)


def _away() -> bytes:
    message = "backup s3://models: cannot give artefacts: connection refused"
    raise BackupError(message)


def test_a_freeze_and_a_rollback_stand_in_the_log_and_in_the_history(shop: Shop) -> None:
    first = shop.release(shop.trained(60))
    second = shop.release(shop.trained(70))
    Announcer(shop.told).announce(
        freeze_record(frozen=True, author="ann", reason="audit", created_at_us=second.created_at_us + 1)
    )
    log = read_log(shop.told)
    assert log.register.standing().champion == second
    assert log.register.standing().frozen
    assert [one.sha256 for one in history(shop.told)] == [first.sha256, second.sha256, ""]


def weir(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "models", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_command_line_lists_rolls_back_and_freezes(shop: Shop, tmp_path: Path) -> None:
    secret = base64.b64encode(bytes((17 * n + ord("1")) % 251 for n in range(32))).decode()
    keys_file = tmp_path / "keys.toml"
    keys_file.write_text(f'active = "k1"\n[keys.k1]\nsecret = "{secret}"\n')
    first = shop.release(shop.trained(60))
    shop.release(shop.trained(70))
    shop.store.put_card(first.sha256, "# a card", "<h1>a card</h1>")
    more = f'[models]\nartefacts = "{shop.store.url}"\nkeys_file = "{keys_file}"\n[wire]\nformat = "json"\n'
    config = written(tmp_path, more)
    config.write_text(
        config.read_text().replace("[streams]", f'[streams]\nmodels = "kafka://{shop.bootstrap}/{shop.topic}"', 1)
    )
    listed = weir("list", "--config", str(config))
    assert listed.returncode == 0, listed.stderr
    assert "champion             test-linear 1+70" in listed.stdout
    assert "may move models" in listed.stdout
    back = weir("rollback", "--config", str(config), "--reason", "worse on wallets", "--author", "ann")
    assert back.returncode == 0, back.stderr
    assert "test-linear 1+60 as champion, by ann" in back.stdout
    again = weir("list", "--config", str(config))
    assert "champion             test-linear 1+60" in again.stdout
    assert "frozen: it moves nobody" in again.stdout
    assert "worse on wallets" in again.stdout
    card = weir("card", "test-linear", "--config", str(config))
    assert card.stdout.startswith("# a card")
    refused = weir("promote", "nobody", "--config", str(config), "--reason", "x")
    assert refused.returncode == 2
    assert "model 'nobody': never released; expected one of test-linear" in refused.stderr
