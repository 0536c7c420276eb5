"""decide and learn together over a real Kafka: labels change features, releases decide, faults change nothing."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.profile import load_profile
from operators.model import restore_model
from schemas.errors import ConfigError
from tests.flows.learning_loop import Loop
from tests.flows.live import kill, stop, wait_until
from tests.kafka import send


def _taught(loop: Loop, running: list[Any]) -> list[dict[str, Any]]:
    """Payments are decided, labelled and learned until a model is announced; returns the first ones."""
    first = loop.pay(120)
    wait_until(running, loop.decided(first))
    loop.tell(first[:40])
    deadline = time.monotonic() + 60.0
    while not loop.releases():
        more = loop.pay(2)  # both topics must go on, or nothing matures and no tick comes
        wait_until(running, loop.decided(more))
        loop.tell(more[:1])
        assert time.monotonic() < deadline, loop.log("learn")
        time.sleep(0.5)
    return first


def _rescored(loop: Loop, decision: dict[str, Any]) -> float | None:
    """The score anew, from the decision's own features and the artefact it names."""
    profile = load_profile(loop.profile)
    artefact = (loop.artefacts() / "artefacts" / decision["versions"]["model_hash"]).read_bytes()
    model = restore_model(profile.features, profile.learning)(artefact)
    told = decision["features"]
    values = told["values"] if "values" in told else [told[one.name] for one in profile.features.features]
    kinds = [one.kind for one in profile.features.features]
    return model.score_one(
        [math.nan if value is None and kind == "number" else value for value, kind in zip(values, kinds, strict=True)]
    )


def test_labels_change_fraud_rates_and_a_released_model_decides(kafka: str, tmp_path: Path) -> None:
    loop = Loop(kafka, tmp_path, "avro")
    decide, learn = loop.start("decide"), loop.start("learn")
    running = [decide, learn]
    first = _taught(loop, running)
    before = loop.decisions()[first[0]["transaction_id"]]
    assert before["score"] is None
    assert "no_model_score" in before["quality_flags"]

    def scored() -> bool:
        paid = loop.pay(1, account_id=first[0]["account_id"])
        wait_until(running, loop.decided(paid))
        latest.append(loop.decisions()[paid[0]["transaction_id"]])
        return latest[-1]["score"] is not None

    latest: list[dict[str, Any]] = []
    wait_until(running, scored)
    decision = latest[-1]
    assert decision["versions"]["model_hash"] in {one["sha256"] for one in loop.releases()}
    assert _rescored(loop, decision) == decision["score"]  # bit for bit
    names = [one.name for one in load_profile(loop.profile).features.features]
    at = names.index("account.fraud_rate_24h")
    assert decision["features"]["values"][at] > (before["features"]["values"][at] or 0.0)

    def labelled_both_ways() -> bool:
        loop.tell(loop.pay(1))  # as above: both topics must go on, or nothing matures
        sources = {one["source"] for one in loop.read("labelled_outcomes", "labelled_outcome")}
        return sources == {"chargeback", "maturity"}

    wait_until(running, labelled_both_ways)
    labelled = loop.read("labelled_outcomes", "labelled_outcome")
    decided = loop.decisions()
    for one in labelled:
        assert one["features"] == decided[one["transaction_id"]]["features"]
        assert one["versions"] == decided[one["transaction_id"]]["versions"]
    assert any(float(line.split()[-1]) > 0 for line in loop.metric("learn", "weir_labels_learned_total{"))
    assert float(loop.metric("learn", "weir_pending_payments ")[0].split()[-1]) > 100
    assert 'weir_model_loads_total{result="loaded"}' in " ".join(loop.metric("decide", "weir_model_loads_total"))

    # learn is down: decide goes on with the last champion; killed, it comes up with it, though the store is gone.
    kill([learn])
    champion = loop.releases()[-1]["sha256"]
    wait_until([decide], lambda: _decides_with(loop, decide) == champion)
    kill([decide])
    shutil.move(loop.artefacts(), tmp_path / "elsewhere")
    decide = loop.start("decide")
    assert _decides_with(loop, decide) == champion
    stop([decide])
    assert "Traceback" not in loop.log("decide") + loop.log("learn")


def _decides_with(loop: Loop, decide: Any) -> str:
    paid = loop.pay(1)
    wait_until([decide], loop.decided(paid))
    return str(loop.decisions()[paid[0]["transaction_id"]]["versions"]["model_hash"])


def test_a_person_promotes_rolls_back_and_freezes_and_forged_releases_are_refused(kafka: str, tmp_path: Path) -> None:
    loop = Loop(kafka, tmp_path, announce="challenger")
    decide, learn = loop.start("decide"), loop.start("learn")
    running = [decide, learn]
    _taught(loop, running)
    while len(loop.releases()) < 2:
        more = loop.pay(2)
        wait_until(running, loop.decided(more))
        loop.tell(more)
    stop([learn])
    first, second = loop.releases()[0]["sha256"], loop.releases()[1]["sha256"]
    untrained = _decides_with(loop, decide)
    assert untrained not in (first, second)  # challengers do not decide
    who = ("--author", "tester", "--reason", "the test says so")
    with pytest.raises(ConfigError, match="there is no champion to roll back from"):
        loop.weir("rollback", *who)
    loop.weir("promote", first[:12], *who)
    wait_until([decide], lambda: _decides_with(loop, decide) == first)
    loop.weir("promote", second, *who)
    wait_until([decide], lambda: _decides_with(loop, decide) == second)
    assert "rollback: champion is test-linear" in loop.weir("rollback", *who)
    wait_until([decide], lambda: _decides_with(loop, decide) == first)
    record = loop.releases()[-1]
    assert (record["change"], record["author"], record["frozen"]) == ("rollback", "tester", True)
    assert record["previous_sha256"] == second
    listed = loop.weir("list")
    assert f"{first[:12]}" in listed
    assert "champion, frozen" in listed
    assert "champion before" in listed
    card = loop.weir("card")
    assert "# Model card: test-linear 1+" in card
    assert "AUC" in card
    assert "weir models rollback" in card
    with pytest.raises(ConfigError, match="frozen already"):
        loop.weir("freeze", *who)

    # Forged, altered and foreign releases: told, counted, and the champion goes on.
    def announce(**changes: Any) -> None:
        told = {**loop.releases()[-1], "sha256": second, **changes}
        value, _ = loop.encoder("model_release", told)
        send(kafka, loop.topics["models"], [(b"test-linear/champion/forged", value)])

    announce()
    announce(signature="")
    paid = loop.pay(5)
    wait_until([decide], loop.decided(paid))
    wait_until([decide], lambda: "release_refused" in loop.log("decide"))
    assert _decides_with(loop, decide) == first
    artefact = loop.artefacts() / "artefacts" / second
    artefact.write_bytes(artefact.read_bytes()[:-1] + b"x")
    loop.weir("unfreeze", *who)
    with pytest.raises(Exception, match="altered or cut off"):
        loop.weir("promote", second, *who)
    assert _decides_with(loop, decide) == first
    refused = " ".join(loop.metric("decide", "weir_model_loads_total"))
    assert 'result="signature"' in refused
    stop([decide])
    assert "Traceback" not in loop.log("decide") + loop.log("learn")
    assert orjson.loads((tmp_path / "state" / "models-0" / "champion.json").read_bytes())["sha256"] == first
