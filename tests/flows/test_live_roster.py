"""Several models live, over a real Kafka: who decides, who only scores, who is refused, and who moves."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.announce import Announcer
from flows.config import load_config
from flows.config_check import artefact_store, model_keys
from flows.profile import Profile, load_profile
from operators.actions import Action
from operators.learn_made import LearnLedger, Made
from operators.model import Model
from operators.releases import message_key
from operators.roster import Roster
from schemas.errors import ConfigError
from schemas.signing import SIGNATURE
from state.artefacts import ArtefactStore
from tests.flows.learning_loop import Loop
from tests.flows.live import kill, stop, wait_until
from tests.kafka import send

CHALLENGER = """
[[challengers]]
id = "rival"
version = "1"
features = ["amount"]
categorical = ["channel"]
min_labels = 20
"""
CANARY = """
[canary]
model = "rival"
share = 0.4
salt = "s"
"""
MOVES = """
[promotion]
block = "3s"
min_frauds = 1
level = 0.5
rollback_level = 0.05
period = "1s"
[drift]
sample = 1.0
"""


class Bench:
    """A loop's artefacts and topic of releases, written by hand."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        config = load_config(loop.path)
        self.profile: Profile = load_profile(loop.profile)
        self.store = artefact_store(config)
        self.announcer = Announcer(self.store, model_keys(config), self.profile.features)
        self.keys = model_keys(config)

    def model(self, name: str, seed: int, *, turned: bool = False) -> Model:
        """A trained one: large amounts are fraud, or small ones."""
        rng = random.Random(seed)
        model = self.profile.restores()[name](None)
        slots = self.profile.features.slots
        for _ in range(300):
            values = self.profile.features.new_values()
            fraud = rng.random() < 0.5
            values[slots["channel"]] = rng.choice(["card_present", "ecommerce", "wallet"])
            values[slots["amount"]] = rng.lognormvariate(7 if fraud != turned else 3, 1)
            model.learn_one(values, fraud, 1.0)
        return model

    def announce(self, model: Model, stage: str, store: ArtefactStore | None = None, **changes: Any) -> str:
        """Announce it so, signed but for what `changes` alters behind the signature; returns its sha256."""
        sha256 = model.artefact_hash()
        made = Made(
            model.to_bytes(), sha256, model.id, f"1+{model.labels}", model.labels, 1, LearnLedger(), [], [], stage
        )
        announcer = self.announcer if store is None else Announcer(store, self.keys, self.profile.features)
        record = announcer(made)
        assert record is not None
        self.send(record, **changes)
        return sha256

    def send(self, record: dict[str, Any], *, sign: bool = True, **changes: Any) -> None:
        told = {**record, **changes}
        if sign and changes:
            told[SIGNATURE] = self.keys.sign({name: one for name, one in told.items() if name != SIGNATURE})
        value, headers = self.loop.encoder("model_release", told)
        send(self.loop.bootstrap, self.loop.topics["models"], [(message_key(told), value)], headers=headers or None)


def _paid(loop: Loop, decide: Any, count: int = 1, **fixed: Any) -> list[dict[str, Any]]:
    paid = loop.pay(count, **fixed)
    wait_until([decide], loop.decided(paid))
    decided = loop.decisions()
    return [decided[one["transaction_id"]] for one in paid]


def _hash(loop: Loop, decide: Any) -> str:
    """Of the model that decides an account of the champion's."""
    return str(_paid(loop, decide, account_id="A-champion")[0]["versions"]["model_hash"])


def _refused(loop: Loop, reason: str, times: int = 1) -> Callable[[], bool]:
    """Whether decide has refused so many releases for this."""
    return lambda: any(
        f'result="{reason}"' in line and float(line.split()[-1]) >= times
        for line in loop.metric("decide", "weir_model_loads_total")
    )


def test_rivals_score_in_the_shadow_a_canary_decides_its_accounts_and_what_is_refused_costs_only_itself(
    kafka: str, tmp_path: Path
) -> None:
    loop = Loop(kafka, tmp_path, "avro", learning=CHALLENGER + CANARY, max_mib=1)
    bench = Bench(loop)
    decide = loop.start("decide")
    champion = bench.announce(bench.model("test-linear", 1), "champion")
    wait_until([decide], lambda: _hash(loop, decide) == champion)
    # A champion that must not be used: whatever is wrong with it, the one before goes on.
    fresh = iter(range(100, 200))

    def other() -> Model:
        return bench.model("test-linear", next(fresh))

    altered = other()
    bench.store.put(altered.to_bytes())
    path = loop.artefacts() / "artefacts" / altered.artefact_hash()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    big = b"m" * (2 << 20)
    big_hash = ArtefactStore(f"file://{loop.artefacts()}", 4 << 20).put(big)
    sound = bench.announcer(_made(other(), "champion"))
    assert sound is not None
    for reason, changes in (
        ("altered", {"sha256": altered.artefact_hash()}),
        ("too_large", {"sha256": big_hash}),
        ("missing", {"sha256": "0" * 64}),
        ("signature", {"reason": "forged", "sign": False}),
        ("feature_set", {"feature_set_hash": "f" * 64}),
        ("profile", {"model_id": "nobody-declared-it"}),
    ):
        bench.send(sound, **changes)
        wait_until([decide], _refused(loop, reason))
        assert _hash(loop, decide) == champion, reason
    bench.announce(bench.model("test-linear", 1), "champion")  # and is champion again, of the topic's as well
    # A rival that is refused costs nothing but itself; one that is not scores in the shadow.
    rival = bench.model("rival", 2, turned=True)
    bench.announce(rival, "canary", sha256=altered.artefact_hash())
    wait_until([decide], _refused(loop, "altered", 2))
    (decision,) = _paid(loop, decide)
    assert (decision["role"], decision["challenger_scores"]) == ("champion", [])
    bench.announce(rival, "challenger")
    wait_until([decide], lambda: bool(_paid(loop, decide)[0]["challenger_scores"]))
    shadowed = _paid_apart(loop, decide, 40)
    for one in shadowed:
        assert (one["role"], one["versions"]["model_id"]) == ("champion", "test-linear")
        (shadow,) = one["challenger_scores"]
        assert (shadow["model_id"], shadow["score"]) == ("rival", rival.score_one(_values(bench, one)))
        assert one["action"] == _action(bench, one, one["score"])
    # The rival would have acted otherwise, and had no say.
    assert any(_action(bench, one, one["challenger_scores"][0]["score"]) != one["action"] for one in shadowed)
    canary = bench.announce(bench.model("rival", 3), "canary")
    wait_until([decide], lambda: any(one["role"] == "canary" for one in _paid(loop, decide, 10)))
    made = _paid(loop, decide, 60)
    chosen = Roster([bench.model("test-linear", 1)], bench.profile.learning.loop.canary)
    for one in made:
        if chosen.is_canarys(one["account_id"]):
            assert (one["role"], one["versions"]["model_hash"]) == ("canary", canary)
        else:
            assert (one["role"], one["versions"]["model_hash"]) == ("champion", champion)
        assert one["action"] == _action(bench, one, one["score"])
        assert len(one["challenger_scores"]) == 1
    assert {one["role"] for one in made} == {"champion", "canary"}
    # A person sends it back, and lets it decide again.
    who = ("--author", "tester", "--reason", "the test says so")
    assert "challenger is rival 1+300" in loop.weir("withdraw", *who)
    wait_until([decide], lambda: {one["role"] for one in _paid(loop, decide, 15)} == {"champion"})
    with pytest.raises(ConfigError, match="there is no canary"):
        loop.weir("withdraw", *who)
    with pytest.raises(ConfigError, match="expected a rival of the champion"):
        loop.weir("canary", champion, *who)
    loop.weir("canary", canary[:12], *who)
    wait_until([decide], lambda: any(one["role"] == "canary" for one in _paid(loop, decide, 10)))
    listed = {line.split()[0]: line for line in loop.weir("list").splitlines()}
    assert listed[canary[:12]].endswith("  canary")
    # The canary is promoted; the champion before it goes on in the shadow.
    bench.announce(bench.model("rival", 4), "champion")
    wait_until([decide], lambda: _paid(loop, decide)[0]["versions"]["model_id"] == "rival")
    after = _paid(loop, decide, 20)
    assert {(one["role"], one["challenger_scores"][0]["model_id"]) for one in after} == {("champion", "test-linear")}
    kill([decide])
    decide = loop.start("decide")  # the topic tells it all again
    (decision,) = _paid(loop, decide)
    assert decision["versions"]["model_id"] == "rival"
    assert decision["challenger_scores"][0]["model_id"] == "test-linear"
    served = " ".join(loop.metric("decide", "weir_models_serving{"))
    assert 'weir_models_serving{role="champion"} 1.0' in served
    stop([decide])
    assert "Traceback" not in loop.log("decide")


def _paid_apart(loop: Loop, decide: Any, count: int) -> list[dict[str, Any]]:
    """Payments of an account each, of which no rule has anything to say."""
    paid = [one for number in range(count) for one in loop.pay(1, account_id=f"A-own-{number}")]
    wait_until([decide], loop.decided(paid))
    decided = loop.decisions()
    return [decided[one["transaction_id"]] for one in paid]


def _made(model: Model, stage: str) -> Made:
    return Made(model.to_bytes(), model.artefact_hash(), model.id, "1", 1, 1, LearnLedger(), [], [], stage)


def _values(bench: Bench, decision: dict[str, Any]) -> list[Any]:
    kinds = [one.kind for one in bench.profile.features.features]
    values = decision["features"]["values"]
    return [math.nan if one is None and kind == "number" else one for one, kind in zip(values, kinds, strict=True)]


def _action(bench: Bench, decision: dict[str, Any], score: float) -> str:
    policy = bench.profile.policy
    verdict = policy.decide(policy.evaluate(_values(bench, decision)), score)
    assert isinstance(verdict.action, Action)
    return verdict.action.wire


def test_a_better_canary_is_promoted_once_by_evidence_and_not_while_a_person_has_frozen_it(
    kafka: str, tmp_path: Path
) -> None:
    loop = Loop(kafka, tmp_path, "avro", learning=CHALLENGER + CANARY + MOVES, blind=True)
    running = [loop.start("decide"), loop.start("learn")]
    who = ("--author", "tester", "--reason", "the test says so")
    rng = random.Random(7)

    def traffic(done: Callable[[], bool]) -> None:
        """Payments whose amount tells all, labelled at once, until something has come about."""
        deadline = time.monotonic() + 120.0
        while not done():
            assert time.monotonic() < deadline, loop.log("learn")[-3_000:] + loop.log("decide")[-3_000:]
            frauds = loop.pay(4, amount_minor=900_000 + rng.randrange(9_999))
            genuine = loop.pay(6, amount_minor=1_000 + rng.randrange(999))
            wait_until(running, loop.decided([*frauds, *genuine]))
            loop.tell(frauds)
            loop.tell(genuine, "genuine", "analyst")
            time.sleep(0.2)

    def stages() -> set[tuple[str, str]]:
        return {(one["model_id"], one["stage"]) for one in loop.releases()}

    traffic(lambda: {("test-linear", "champion"), ("rival", "canary")} <= stages())
    loop.weir("freeze", *who)
    until = time.monotonic() + 30.0  # as many blocks as it takes to be promoted, and more
    traffic(lambda: time.monotonic() > until)
    assert not [one for one in loop.read("alerts", "alert") if one["kind"].startswith("model_")]
    assert ("rival", "champion") not in stages()
    decisions = loop.decisions().values()
    assert {"champion", "canary"} == {one["role"] for one in decisions}
    loop.weir("unfreeze", *who)
    traffic(lambda: ("rival", "champion") in stages())
    traffic(lambda: _last(loop)["versions"]["model_id"] == "rival" and _last(loop)["role"] == "champion")
    kill(running[1:])
    running[1] = loop.start("learn")
    until = time.monotonic() + 5.0
    traffic(lambda: time.monotonic() > until)
    stop(running)
    (move,) = [one for one in loop.releases() if one["origin"] == "automatic"]
    assert (move["model_id"], move["stage"], move["change"]) == ("rival", "champion", "promote")
    assert move["metrics"]["evidence_frauds"] >= 1
    assert move["metrics"]["evidence_measured"] <= move["metrics"]["evidence_threshold"]
    assert "promotion of rival, now champion" in move["reason"]
    (alert,) = [one for one in loop.read("alerts", "alert") if one["kind"].startswith("model_")]
    assert (alert["kind"], alert["subject"]) == ("model_promoted", "rival")
    later = [one for one in loop.releases() if one["created_at"] > move["created_at"]]
    assert {(one["model_id"], one["stage"]) for one in later} <= {("rival", "champion"), ("test-linear", "challenger")}
    assert move["previous_sha256"] in {one["sha256"] for one in loop.releases() if one["stage"] == "champion"}
    assert "Traceback" not in loop.log("decide") + loop.log("learn")


def _last(loop: Loop) -> dict[str, Any]:
    return max(loop.decisions().values(), key=lambda one: one["decided_at"])
