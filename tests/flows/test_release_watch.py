"""What decide serves of what is announced: the wire is played here, artefacts and models are real.

tests/flows/test_live_roster.py has it over a real Kafka.
"""

from __future__ import annotations

import base64
import queue
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import release_watch
from flows.announce import Announcer
from flows.model_hooks import NoModelHooks
from flows.profile import Profile, load_profile
from flows.release_watch import ReleaseWatch
from flows.releases import ReleaseSource
from flows.source import Run
from flows.streams import KafkaStream
from operators.learn_made import LearnLedger, Made
from operators.model import Model
from operators.releases import HUMAN, Release, ReleaseLog
from operators.roster import Announced
from schemas.signing import SigningKeys
from schemas.wire import JsonDecoder
from state.artefacts import ArtefactStore
from tests.flows.traffic import LEARNING, write_profile

KEYS = SigningKeys.from_toml(
    f'active = "k1"\n[keys.k1]\nsecret = "{base64.b64encode(bytes(range(32))).decode()}"\n', "keys"
)
TOPIC: queue.Queue[Release] = queue.Queue()
TOLD: list[Release] = []


class _Topic:
    """models.v1, played."""

    def __init__(self, *_: object) -> None:
        self._at = 0

    def to_end(self) -> Iterator[Release]:
        yield from TOLD

    def more(self) -> Iterator[Release]:
        try:
            yield TOPIC.get(timeout=0.01)
        except queue.Empty:
            return

    def close(self) -> None:
        """Nothing to leave."""


class _Heard(NoModelHooks):
    def __init__(self) -> None:
        self.results: list[str] = []

    def model_load(self, result: str, seconds: float, created_us: int, frozen: bool, /) -> None:
        self.results.append(result)


class Desk:
    """A profile with three models, a store, and what decide serves."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        folder = write_profile(directory / "profile")
        rival = '[[challengers]]\nid = "{}"\nversion = "1"\nmin_labels = 20\n'
        (folder / "learning.toml").write_text(f"{LEARNING}{rival.format('r')}{rival.format('q')}")
        self.profile: Profile = load_profile(folder)
        self.store = ArtefactStore(f"file://{directory}/artefacts", 1 << 20)
        self.announcer = Announcer(self.store, KEYS, self.profile.features)
        self.hooks = _Heard()
        self.rosters: list[Announced] = []
        self.watch = self.started()

    def started(self) -> ReleaseWatch:
        source = ReleaseSource(KafkaStream(("b:1",), "models"), {}, JsonDecoder(), KEYS, self.store)
        features, cache = self.profile.features, self.directory / "cache"
        watch = ReleaseWatch(source, features, self.profile.restores(), cache, Run(), self.hooks)
        watch.start()
        return watch

    def model(self, name: str, seed: int) -> Model:
        rng = random.Random(seed)
        model = self.profile.restores()[name](None)
        for _ in range(60):
            values = self.profile.features.new_values()
            values[0] = rng.lognormvariate(3, 1)
            model.learn_one(values, rng.random() < 0.3, 1.0)
        return model

    def announce(self, name: str, stage: str, seed: int, *, damaged: bool = False, **changes: Any) -> str:
        model = self.model(name, seed)
        sha256 = model.artefact_hash()
        made = Made(model.to_bytes(), sha256, name, "1", 60, 1, LearnLedger(), [], [], stage)
        record = self.announcer(made)
        assert record is not None
        if damaged:
            path = self.directory / "artefacts" / "artefacts" / sha256
            path.write_bytes(path.read_bytes()[:-1])
        told = {**record, **changes}
        release = Release({**told, "signature": KEYS.sign(told)}, len(TOLD))
        TOLD.append(release)
        TOPIC.put(release)
        return sha256

    def until(self, ready: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20.0
        while not ready():
            self.rosters.append(self.watch())
            assert time.monotonic() < deadline, (self.watch(), self.hooks.results)

    def serves(self, canary: str | None, **hashes: str) -> Callable[[], bool]:
        """Whether these are served, the champion being the first."""

        def ready() -> bool:
            now = self.watch()
            assert len({model.id for model in now.models}) == len(now.models)
            return (now.models[0].id, now.canary, now.hashes) == (next(iter(hashes)), canary, hashes)

        return ready


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(release_watch, "ReleaseReader", _Topic)
    monkeypatch.setattr(release_watch, "_RETRY_S", 0.05)
    TOLD.clear()
    while not TOPIC.empty():
        TOPIC.get_nowait()
    desk = Desk(tmp_path)
    yield desk
    desk.watch.close()


LINEAR = "test-linear"


def test_a_promotion_swaps_the_whole_roster_at_once(desk: Desk) -> None:
    first, second, third = (
        desk.announce(LINEAR, "champion", 1),
        desk.announce("r", "canary", 2),
        desk.announce("q", "challenger", 3),
    )
    desk.until(desk.serves("r", **{LINEAR: first, "r": second, "q": third}))
    promoted = desk.announce("r", "champion", 4)
    desk.until(desk.serves(None, **{"r": promoted, LINEAR: first, "q": third}))
    after = [one for one in desk.rosters if one.models[0].id == "r"]
    assert {tuple(sorted(one.hashes)) for one in after} <= {tuple(sorted(("q", "r", LINEAR)))}


def test_a_rival_whose_new_artefact_is_refused_goes_on_as_it_was(desk: Desk) -> None:
    first, canary = desk.announce(LINEAR, "champion", 1), desk.announce("r", "canary", 2)
    shadow = desk.announce("q", "challenger", 3)
    desk.until(desk.serves("r", **{LINEAR: first, "r": canary, "q": shadow}))
    desk.announce("r", "canary", 4, damaged=True)
    desk.announce("q", "challenger", 5, feature_set_hash="f" * 64)
    desk.until(lambda: {"altered", "feature_set"} <= set(desk.hooks.results))
    assert desk.serves("r", **{LINEAR: first, "r": canary, "q": shadow})()
    # One that was no canary becomes none by an artefact that is refused; it goes on in the shadow.
    desk.announce("q", "canary", 6, damaged=True)
    desk.until(desk.serves(None, **{LINEAR: first, "r": canary, "q": shadow}))
    newer = desk.announce(LINEAR, "champion", 7)
    desk.until(desk.serves(None, **{LINEAR: newer, "r": canary, "q": shadow}))


def test_what_cannot_be_reached_is_tried_again_and_what_is_refused_is_told_once(desk: Desk) -> None:
    first = desk.announce(LINEAR, "champion", 1)
    desk.until(desk.serves(None, **{LINEAR: first}))
    artefacts, away = desk.directory / "artefacts" / "artefacts", desk.directory / "away"
    desk.announce("r", "challenger", 9, damaged=True)
    desk.until(lambda: "altered" in desk.hooks.results)
    second = desk.model(LINEAR, 2).artefact_hash()
    desk.store.put(desk.model(LINEAR, 2).to_bytes())
    shutil.move(artefacts, away)
    told = {**TOLD[0].record, "sha256": second}
    TOPIC.put(Release({**told, "signature": KEYS.sign(told)}, 99))
    desk.until(lambda: desk.hooks.results.count("missing") >= 3)
    assert desk.watch().hashes == {LINEAR: first}
    shutil.move(away, artefacts)
    desk.until(desk.serves(None, **{LINEAR: second}))
    assert desk.hooks.results.count("altered") == 1


def test_a_start_comes_up_with_the_champion_kept_beside_the_state(desk: Desk) -> None:
    desk.announce(LINEAR, "champion", 1)
    champion = desk.announce("r", "champion", 2)
    desk.until(lambda: desk.watch().models[0].id == "r" and (desk.directory / "cache" / "champion.json").is_file())
    desk.watch.close()
    shutil.rmtree(desk.directory / "artefacts")
    desk.watch = desk.started()
    assert desk.watch().models[0].id == "r"
    assert desk.watch().hashes["r"] == champion
    assert "missing" in desk.hooks.results  # the one before it, which would score in the shadow


def test_behind_a_freeze_another_champion_is_not_served(desk: Desk) -> None:
    first = desk.announce(LINEAR, "champion", 1, origin=HUMAN, frozen=True)
    desk.announce(LINEAR, "champion", 2)
    desk.announce("r", "canary", 3)
    shadow = desk.announce("q", "challenger", 4)
    desk.until(desk.serves(None, **{LINEAR: first, "q": shadow}))


def test_a_shadow_that_changes_places_with_the_champion_decides(desk: Desk) -> None:
    """Neither an artefact nor the canary changes: only who is champion."""
    first, second = desk.announce(LINEAR, "champion", 1), desk.announce("r", "challenger", 2)
    desk.until(desk.serves(None, **{LINEAR: first, "r": second}))
    desk.announce("r", "champion", 2, origin=HUMAN, frozen=True)
    desk.until(desk.serves(None, **{"r": second, LINEAR: first}))
    desk.announce(LINEAR, "champion", 1, origin=HUMAN, frozen=False)
    desk.until(desk.serves(None, **{LINEAR: first, "r": second}))


@pytest.mark.parametrize("seed", range(3))
def test_what_is_served_is_what_the_topic_says_whatever_is_announced(desk: Desk, seed: int) -> None:
    rng = random.Random(seed)
    stages = ("champion", "champion", "canary", "challenger", "retired")
    desk.announce(LINEAR, "champion", 1)
    for _ in range(25):
        origin, frozen = rng.choice(("learn", HUMAN, "automatic")), rng.random() < 0.2
        name = rng.choice((LINEAR, "r", "q"))
        desk.announce(name, rng.choice(stages), rng.randrange(3), origin=origin, frozen=frozen)
        log = ReleaseLog()
        for one in TOLD:
            log.apply(one)
        assert log.champion is not None
        hashes = {log.champion.model_id: log.champion.sha256}
        if log.canary is not None:
            hashes[log.canary.model_id] = log.canary.sha256
        hashes |= {name: one.sha256 for name, one in log.challengers.items()}
        desk.until(desk.serves(log.canary.model_id if log.canary else None, **hashes))
