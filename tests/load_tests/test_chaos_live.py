"""The live kill campaign in short, and the proof that it notices when the program forgets what it has published."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.cluster import free_addresses
from load_tests import chaos_live
from load_tests.campaign.live_count import Reader
from tests.kafka import make_topic, send

SABOTAGE = Path(__file__).resolve().parent / "sabotage"


def _campaign(out: Path, kills: int, seed: int, *options: str) -> int:
    port = free_addresses(1)[0].rpartition(":")[2]
    words = ["--out", str(out), "--kills", str(kills), "--seed", str(seed), "--payments", "2000", "--rate", "150"]
    return chaos_live.main([*words, "--metrics-port", port, *options])


def test_a_short_campaign_with_an_outage_is_clean(
    kafka: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The campaign has a Kafka of its own, since it kills it; the fixture says whether one can be had.
    faults = "kill all,kill in snapshot,kill in start,kill one process"
    assert _campaign(tmp_path, 4, 3, "--faults", faults, "--outage", "5") == 0, capsys.readouterr()
    page = (tmp_path / "report.md").read_text()
    assert "| all | 5 | 5 |" in page
    assert "0 lost, 0 twice, 0 contradicted, 0 retries unanswered" in page
    assert re.search(r"[1-9]\d* payments and [1-9]\d* retries sent", page.replace(",", "")), page


def test_the_campaign_fails_when_nothing_is_read_back(
    kafka: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = str(SABOTAGE / "no_read_back_live.py")
    # Killed behind its first decisions and before a commit of theirs: they are published again.
    faults = ("--faults", "kill all", "--epoch", "60s", "--processes", "1", "--outage", "0")
    assert _campaign(tmp_path, 2, 5, *faults, "--before", before) == 1, capsys.readouterr()
    page = (tmp_path / "report.md").read_text()
    assert re.search(r"[1-9]\d* twice", page), page
    assert "NOT CLEAN" in page


def test_every_kind_is_done_once_before_any_is_done_twice() -> None:
    kinds = list(chaos_live.FAULTS)
    drawn = chaos_live.plan(50, outage=True, rng=random.Random(1), kinds=kinds)
    assert len(drawn) == 51
    assert drawn.count(chaos_live.OUTAGE) == 1
    assert set(drawn) == {*kinds, chaos_live.OUTAGE}
    assert sorted(chaos_live.plan(6, outage=False, rng=random.Random(2), kinds=kinds)) == sorted(kinds)


def _decision(name: str, action: str = "approve", *, duplicate: bool = False) -> bytes:
    return orjson.dumps({"transaction_id": name, "action": action, "duplicate": duplicate})


WHOLE = [_decision("a"), _decision("b"), _decision("b", duplicate=True)]


@pytest.mark.parametrize(
    ("decisions", "dead", "wrong"),
    [
        (WHOLE, [], {}),
        (WHOLE[:1], [], {"lost": 1, "unanswered": 1}),
        (WHOLE[:2], [], {"unanswered": 1}),
        ([*WHOLE, _decision("a")], [], {"twice": 1}),
        ([*WHOLE, _decision("a", "decline")], [], {"twice": 1, "contradicted": 1}),
        ([*WHOLE[:2], _decision("b", "decline", duplicate=True)], [], {"contradicted": 1}),
        ([*WHOLE, _decision("a", duplicate=True)], [], {"overanswered": 1}),
        ([*WHOLE, _decision("c")], [], {"unknown": 1}),
        (WHOLE, [b"{}"], {"dead": 1}),
    ],
)
def test_the_consumer_counts_what_is_wrong(
    kafka: str, decisions: list[bytes], dead: list[bytes], wrong: dict[str, Any]
) -> None:
    topics = [make_topic(kafka, name, 2) for name in ("decisions", "dead_letters")]
    for topic, values in zip(topics, (decisions, dead), strict=True):
        send(kafka, topic, [(str(number).encode(), value) for number, value in enumerate(values)])
    reader = Reader(kafka, *topics)
    reader.look()
    reader.look()  # nothing is counted again
    found = reader.count(Counter(a=1, b=2), at_end=True)
    reader.close()
    names = ("lost", "twice", "contradicted", "unanswered", "overanswered", "unknown", "dead")
    assert {name: getattr(found, name) for name in names if getattr(found, name)} == wrong
    assert found.clean == (not wrong)
