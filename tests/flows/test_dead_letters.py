"""`weir dead-letters` on a real broker: listed, shown without card numbers, sent again as it was and mended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.dead_letters import REPLAYED_FROM, Wanted, letters_in, parse_place
from schemas.errors import ConfigError
from schemas.wire_avro import FingerprintEncoder
from tests.flows.test_decide_cli import Decide, ended, wait_until
from tests.kafka import read_all, send

PAN = "4111111111111111"
GOOD = {
    "transaction_id": "tx-1",
    "event_time": "2026-03-01T10:00:00Z",
    "account_id": "acc-1",
    "channel": "ecommerce",
    "amount_minor": 1250,
    "currency": "EUR",
}


def weir(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", "dead-letters", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def mended_file(path: Path, place: str, record: dict[str, Any]) -> Path:
    topic, partition, offset = place.split("/")
    told = {"topic": topic, "partition": int(partition), "offset": int(offset), "record": record}
    path.write_bytes(orjson.dumps(told) + b"\n")
    return path


@pytest.mark.parametrize("wire", ["json", "avro"])
def test_a_dead_letter_is_listed_shown_and_its_mended_record_decided_once(
    kafka: str, tmp_path: Path, wire: str
) -> None:
    decide = Decide(kafka, tmp_path, wire)
    config = ["--config", str(decide.path)]
    topic, dead = decide.topics["transactions"], decide.topics["dead_letters"]
    bad = orjson.dumps({**GOOD, "currency": "XXQ", "note": PAN})
    process = decide.start()
    try:
        decide.feed([{**GOOD, "transaction_id": "tx-0"}])
        if wire == "json":
            send(kafka, topic, [(b"acc-1", bad)], headers=[("traceparent", b"kept")])
        else:
            value, headers = FingerprintEncoder()(
                "device_event", {"event_id": "e", "event_time": 1, "device_id": "d", "kind": "seen"}
            )
            send(kafka, topic, [(b"acc-1", value)], headers=[*headers, ("traceparent", b"kept")])
        wait_until(process, lambda: len(read_all(kafka, dead)) == 1)

        listed = weir("list", *config)
        assert listed.returncode == 0, listed.stderr
        assert "1 dead letters" in listed.stdout
        place = listed.stdout.split()[0]
        assert place.startswith(f"{topic}/")
        [line] = weir("list", *config, "--json").stdout.splitlines()
        told = orjson.loads(line)
        assert told["reason"] in listed.stdout
        assert "0 dead letters" in weir("list", *config, "--reason", "NOT_JSON").stdout
        assert "0 dead letters" in weir("list", *config, "--until", "2020-01-01T00:00:00Z").stdout
        assert "1 dead letters" in weir("list", *config, "--since", "2020-01-01T00:00:00Z", "--topic", topic).stdout

        shown = weir("show", place, *config)
        assert shown.returncode == 0, shown.stderr
        assert "still in its topic" in shown.stdout
        assert told["detail"] in shown.stdout
        assert PAN not in shown.stdout + listed.stdout + line
        absent = weir("show", f"{topic}/0/99", *config)
        assert absent.returncode == 2
        assert "there is no dead letter about it" in absent.stderr

        # As it was: what was wrong with it still is.
        tried = weir("replay", *config, "--dry-run")
        assert "1 to send; 0 were sent again before" in tried.stdout
        assert len(read_all(kafka, topic)) == 2
        sent = weir("replay", *config, "--yes")
        assert sent.returncode == 0, sent.stderr
        wait_until(process, lambda: len(read_all(kafka, dead)) == 2)
        [again] = [one for one in read_all(kafka, topic) if REPLAYED_FROM in dict(one.headers() or [])]
        headers_again: Any = again.headers()
        assert dict(headers_again)[REPLAYED_FROM] == place.encode()
        assert dict(headers_again)["traceparent"] == b"kept"
        assert again.key() == b"acc-1"
        if wire == "json":
            assert again.value() == bad

        # Mended, by the place of the second dead letter; the first one's counts as sent again.
        still_bad = mended_file(tmp_path / "still-bad.jsonl", place, {**GOOD, "currency": "XXQ"})
        refused = weir("replay", *config, "--mended", str(still_bad), "--yes")
        assert refused.returncode == 2
        assert "still-bad.jsonl:1: it would be a dead letter again" in refused.stderr
        second = f"{again.topic()}/{again.partition()}/{again.offset()}"
        good = mended_file(tmp_path / "good.jsonl", second, GOOD)
        sent = weir("replay", *config, "--mended", str(good), "--yes")
        assert sent.returncode == 0, sent.stderr
        wait_until(process, lambda: "tx-1" in {one["transaction_id"] for one in decide.decisions()})
        for words in (("--mended", str(good)), ()):
            once_more = weir("replay", *config, "--yes", *words)
            assert "0 to send" in once_more.stdout, once_more.stdout + once_more.stderr
        ended(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert sorted(one["transaction_id"] for one in decide.decisions()) == ["tx-0", "tx-1"]


def test_without_a_broker_it_says_so(tmp_path: Path) -> None:
    config = tmp_path / "weir.toml"
    streams = "".join(
        f'{name} = "kafka://127.0.0.1:1/{name}"\n'
        for name in ("transactions", "decisions", "labelled_outcomes", "dead_letters")
    )
    (tmp_path / "profile").mkdir()
    config.write_text(f'profile = "profile"\n[streams]\n{streams}[wire]\nformat = "json"\n[state]\nfolder = "state"\n')
    told = weir("list", "--config", str(config))
    assert told.returncode == 1
    assert "127.0.0.1:1 does not answer" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_replays_file_is_read_and_filtered(tmp_path: Path) -> None:
    path = tmp_path / "dead_letters.jsonl"
    letter = {
        "topic": "transactions",
        "partition": 0,
        "offset": 7,
        "event_time": None,
        "reason": "NOT_JSON",
        "detail": "expected an object",
        "payload": "[]",
        "seen_at": "2026-03-01T10:00:00Z",
    }
    path.write_bytes(
        orjson.dumps(letter) + b"\n" + orjson.dumps({**letter, "reason": "TOO_LARGE", "offset": 8}) + b"\n"
    )
    listed = weir("list", "--file", str(path), "--limit", "1")
    assert "transactions/0/7  2026-03-01T10:00:00" in listed.stdout
    assert "... and 1 more" in listed.stdout
    found = list(filter(Wanted(reason="TOO_LARGE"), letters_in(path)))
    assert [str(one.place) for one in found] == ["transactions/0/8"]
    path.write_text("{}\n")
    refused = weir("list", "--file", str(path))
    assert refused.returncode == 2
    assert "dead_letters.jsonl:1: expected a dead letter" in refused.stderr


@pytest.mark.parametrize("text", ["", "a", "a/1", "a/x/1", "a/1/-1", "/1/2"])
def test_a_place_is_three_parts(text: str) -> None:
    with pytest.raises(ConfigError, match="expected TOPIC/PARTITION/OFFSET"):
        parse_place(text)
