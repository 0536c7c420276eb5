"""A replay repeats to the byte, resumes where it stopped, and decides every payment once whatever kills it.

Long, because all its tests compare with the output of one uninterrupted replay, made once for the file.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import fastavro
import orjson
import pyarrow
import pyarrow.parquet
import pytest

from flows.profile import load_profile
from flows.publish import SLOTS
from flows.replay import ReplayOptions, run_replay
from flows.source import Run
from schemas.codec import contract, decode_avro_mapping, encode_avro, time_fields
from schemas.errors import ConfigError, StateError
from schemas.times import parse_rfc3339_us
from schemas.tokens import TokenKeys
from schemas.validate import Limits
from state.store import StateHome
from tests.flows.traffic import START, decisions, payment, write_events, write_profile

NOW_US = int((START + timedelta(days=30)).timestamp()) * 1_000_000


class _StopAfter(threading.Event):
    """Is set once it was asked a number of times: the flow asks before each batch."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


CONTRACTS = {
    "transactions": "transaction",
    "device_events": "device_event",
    "identity_events": "identity_event",
    "outcomes": "outcome",
}


def replay(
    profile: Path,
    events: Path,
    out: Path,
    *,
    state: Path | None = None,
    batch: int = 1000,
    stop_after: int | None = None,
    keys: TokenKeys | None = None,
) -> Run:
    """Run in this process; with `stop_after`, end in order once that many batches were read."""
    run = Run()
    options = ReplayOptions(
        events=events,
        out=out,
        state=state,
        batch=batch,
        epoch=timedelta(milliseconds=200),
        limits=Limits(),
        tokeniser=keys,
        now_us=NOW_US,
        shards=4,
    )
    if stop_after is not None:
        run.stop = _StopAfter(stop_after)
    run_replay(load_profile(profile), options, run)
    return run


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_profile(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_events(tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, profile: Path, events: Path) -> Path:
    """The output of an uninterrupted replay."""
    out = tmp_path_factory.mktemp("whole")
    assert replay(profile, events, out).finished
    return out


def output(out: Path) -> dict[str, bytes]:
    return {slot: (out / f"{slot}.jsonl").read_bytes() for slot in SLOTS}


def test_every_payment_is_decided_and_everything_else_is_accounted_for(whole: Path, events: Path) -> None:
    sent = (events / "transactions.jsonl").read_bytes().splitlines()
    made = decisions(whole)
    dead = [orjson.loads(line) for line in (whole / "dead_letters.jsonl").read_bytes().splitlines()]
    assert len(made) + len(dead) == len(sent)
    decided = Counter(one["transaction_id"] for one in made if not one["duplicate"])
    assert set(decided.values()) == {1}
    assert len(decided) == 2000
    assert sum(one["duplicate"] for one in made) >= 20
    reasons = Counter(one["reason"] for one in dead)
    assert {"NOT_JSON", "MISSING_FIELD", "CONFLICTING_DUPLICATE"} <= set(reasons)
    assert reasons["CONFLICTING_DUPLICATE"] == 1


@pytest.mark.parametrize(
    ("slot", "name"),
    [("decisions", "decision"), ("labelled_outcomes", "labelled_outcome"), ("dead_letters", "dead_letter")],
)
def test_what_is_published_keeps_its_contract(whole: Path, slot: str, name: str) -> None:
    for line in (whole / f"{slot}.jsonl").read_bytes().splitlines():
        record = orjson.loads(line)
        for field in time_fields(name):
            if record[field] is not None:
                record[field] = parse_rfc3339_us(record[field])
        if "features" in record:
            values = list(record["features"].values())
            record["features"] = {"feature_set": record["versions"]["feature_set_id"], "values": values}
        if name != "labelled_outcome":
            record.get("source", record).setdefault("sequence", None)  # only what came from Kinesis has one
        assert decode_avro_mapping(name, encode_avro(name, record)) == record


def test_a_retry_is_answered_with_the_decision_already_published(whole: Path) -> None:
    first: dict[str, dict[str, Any]] = {}
    for one in decisions(whole):
        if one["duplicate"]:
            assert {**one, "duplicate": False} == first[one["transaction_id"]]
        else:
            first[one["transaction_id"]] = one


def test_decisions_name_reasons_features_and_versions(whole: Path, profile: Path) -> None:
    features = load_profile(profile).features
    made = decisions(whole)
    assert all(list(one["features"]) == [feature.name for feature in features.features] for one in made)
    assert all(one["reason_codes"] for one in made)
    assert {one["versions"]["feature_set_hash"] for one in made} == {features.hash}
    hit = [one for one in made if {"rule": "travel", "action": "challenge"} in one["rule_hits"]]
    assert hit
    for one in hit:
        assert "IMPOSSIBLE_TRAVEL" in one["reason_codes"]
        assert one["action"] != "approve"
        assert one["features"]["account.speed_kmh"] > 1000
    assert {one["action"] for one in made} >= {"approve", "challenge", "review"}
    assert any(flag.startswith("late:") for one in made for flag in one["quality_flags"])


def test_a_shadow_rule_is_told_and_changes_nothing(whole: Path) -> None:
    shadowed = [one for one in decisions(whole) if one["shadow_hits"]]
    assert shadowed
    assert any(one["action"] == "approve" for one in shadowed)
    assert not any("MANY_ACCOUNTS_ON_DEVICE" in one["reason_codes"] for one in shadowed)


def test_the_model_scores_only_once_it_has_learned_and_learns_what_it_scored(whole: Path) -> None:
    made = [one for one in decisions(whole) if not one["duplicate"]]
    assert made[0]["score"] is None
    assert "no_model_score" in made[0]["quality_flags"]
    assert made[-1]["score"] is not None
    assert made[-1]["contributions"]
    by_id = {one["transaction_id"]: one for one in made}
    labelled = [orjson.loads(line) for line in (whole / "labelled_outcomes.jsonl").read_bytes().splitlines()]
    assert {one["source"] for one in labelled} >= {"chargeback", "customer", "maturity"}
    for one in labelled:
        scored = by_id[one["transaction_id"]]
        assert one["features"] == scored["features"]
        assert one["score"] == scored["score"]
        assert parse_rfc3339_us(one["event_time"]) >= parse_rfc3339_us(one["payment_event_time"])


def test_no_label_reaches_a_payment_before_its_tick(whole: Path) -> None:
    first_label = min(
        parse_rfc3339_us(orjson.loads(line)["event_time"])
        for line in (whole / "labelled_outcomes.jsonl").read_bytes().splitlines()
    )
    hour = 3_600_000_000
    tick = -(-first_label // hour) * hour
    seen = [
        (parse_rfc3339_us(one["decided_at"]), one["features"]["account.label_count_24h"]) for one in decisions(whole)
    ]
    assert all(not count for at, count in seen if at < tick)
    assert any(count for at, count in seen if at >= tick)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_decisions_are_the_same_to_the_byte_for_any_batch_size(
    whole: Path, profile: Path, events: Path, tmp_path: Path, batch: int
) -> None:
    replay(profile, events, tmp_path / "out", batch=batch)
    assert output(tmp_path / "out") == output(whole)


def test_a_stopped_replay_goes_on_and_ends_the_same_to_the_byte(
    whole: Path, profile: Path, events: Path, tmp_path: Path
) -> None:
    runs = 0
    while True:
        runs += 1
        run = replay(profile, events, tmp_path / "out", state=tmp_path / "state", batch=100, stop_after=6)
        if run.finished:
            break
    assert runs >= 3
    assert output(tmp_path / "out") == output(whole)
    assert replay(profile, events, tmp_path / "out", state=tmp_path / "state").finished
    assert output(tmp_path / "out") == output(whole)


@pytest.mark.parametrize("suffix", ["avro", "parquet"])
def test_files_of_any_sort_give_the_same_decisions(
    whole: Path, profile: Path, events: Path, tmp_path: Path, suffix: str
) -> None:
    made = tmp_path / "events"
    made.mkdir()
    for stream in CONTRACTS:
        good = _readable((events / f"{stream}.jsonl").read_bytes().splitlines())
        (made / f"{stream}.jsonl").write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in good))
    replay(profile, made, tmp_path / "jsonl")
    for stream, name in CONTRACTS.items():
        good = _readable((made / f"{stream}.jsonl").read_bytes().splitlines())
        (made / f"{stream}.jsonl").unlink()
        rows = [{**one, "event_time": parse_rfc3339_us(one["event_time"])} for one in good]
        if suffix == "avro":
            with (made / f"{stream}.avro").open("wb") as out:
                fastavro.writer(out, contract(name), rows)
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), made / f"{stream}.parquet")
    replay(profile, made, tmp_path / suffix)
    assert output(tmp_path / suffix) == output(tmp_path / "jsonl")


def _readable(lines: list[bytes]) -> list[dict[str, Any]]:
    good = []
    for line in lines:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(record, dict) and "event_time" in record:
            good.append(record)
    return good


def test_a_retry_is_answered_for_as_long_as_its_payment_is_remembered(profile: Path, tmp_path: Path) -> None:
    rng = random.Random(4)
    first = payment(rng, 0, START)
    between = [payment(rng, n, START + timedelta(days=n)) for n in range(1, 12)]
    directory = tmp_path / "events"
    directory.mkdir()
    (directory / "transactions.jsonl").write_bytes(b"\n".join(orjson.dumps(one) for one in [first, *between, first]))
    (directory / "outcomes.jsonl").touch()
    longer = write_profile(tmp_path / "profile")
    learning = (
        (profile / "learning.toml").read_text().replace('correction_horizon = "2d"', 'correction_horizon = "60d"')
    )
    (longer / "learning.toml").write_text(learning)
    replay(longer, directory, tmp_path / "out")
    made = decisions(tmp_path / "out")
    assert len(made) == 13
    assert made[-1] == {**made[0], "duplicate": True}


def test_features_alone_make_a_profile(events: Path, profile: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "features.toml").write_text((profile / "features.toml").read_text())
    replay(bare, events, tmp_path / "out")
    made = decisions(tmp_path / "out")
    assert {one["action"] for one in made} == {"approve"}
    assert {one["score"] for one in made} == {None}


def test_a_state_folder_of_another_replay_is_refused(profile: Path, events: Path, tmp_path: Path) -> None:
    replay(profile, events, tmp_path / "out", state=tmp_path / "state")
    other = write_profile(tmp_path / "other")
    (other / "policy.toml").write_text((profile / "policy.toml").read_text().replace("> 1000", "> 2000"))
    with pytest.raises(ConfigError, match="belongs to another replay: policy was"):
        replay(other, events, tmp_path / "out", state=tmp_path / "state")


def test_output_that_was_removed_refuses_the_resume(profile: Path, events: Path, tmp_path: Path) -> None:
    replay(profile, events, tmp_path / "out", state=tmp_path / "state", batch=100, stop_after=5)
    (tmp_path / "out" / "decisions.jsonl").unlink()
    with pytest.raises(StateError, match="bytes that were committed, found 0"):
        replay(profile, events, tmp_path / "out", state=tmp_path / "state")


def test_a_new_state_folder_does_not_mix_with_old_output(profile: Path, events: Path, tmp_path: Path) -> None:
    replay(profile, events, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"\.jsonl is not empty.*give an empty --out"):
        replay(profile, events, tmp_path / "out", state=tmp_path / "state")


def test_a_folder_without_transactions_is_refused(profile: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected transactions\.jsonl, \.avro or \.parquet in it, found none"):
        replay(profile, tmp_path, tmp_path / "out")


# Kills: real processes, real SIGKILL.


class Killable:
    """`weir replay` as processes that can be killed all at once."""

    def __init__(self, profile: Path, events: Path, directory: Path, processes: int) -> None:
        self.out = directory / "out"
        self._command = [
            *(sys.executable, "-m", "flows.cli", "replay", "--profile", str(profile), "--events", str(events)),
            *(
                "--out",
                str(self.out),
                "--state",
                str(directory / "state"),
                "--batch",
                "20",
                "--epoch",
                "0.1",
                "--shards",
                "4",
            ),
            *("--processes", str(processes), "--no-report"),
        ]

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, start_new_session=True, stderr=subprocess.PIPE)

    def published(self) -> int:
        path = self.out / "decisions.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0


def _descendants(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found += [int(entry.name), *_descendants(int(entry.name))]
    return found


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    for pid in [process.pid, *_descendants(process.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


@pytest.fixture(scope="module")
def long_events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_events(tmp_path_factory.mktemp("long"), payments=6_000, hours=60, seed=3)


@pytest.fixture(scope="module")
def long_whole(tmp_path_factory: pytest.TempPathFactory, profile: Path, long_events: Path) -> Path:
    out = tmp_path_factory.mktemp("long-whole")
    replay(profile, long_events, out)
    return out


def _wait_until(process: subprocess.Popen[bytes], killable: Killable, target: int) -> bool:
    """Whether `target` decisions were published before the process ended."""
    while process.poll() is None:
        if killable.published() >= target:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(("processes", "kills"), [(1, 5), (2, 4)])
def test_killed_at_random_every_payment_is_decided_once_and_never_contradicted(
    profile: Path, long_events: Path, long_whole: Path, tmp_path: Path, processes: int, kills: int
) -> None:
    rng = random.Random(processes)
    killable = Killable(profile, long_events, tmp_path, processes)
    done = 0
    for kill in range(kills):
        process = killable.start()
        # The first kill falls before anything can have been committed, the others anywhere.
        target = 1 if kill == 0 else killable.published() + rng.randrange(1, 900)
        if _wait_until(process, killable, target):
            time.sleep(rng.random() * 0.1)
            done += process.poll() is None
        _kill_all(process)
    assert done >= 4
    last = killable.start()
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors.decode()

    made = decisions(killable.out)
    reference = decisions(long_whole)
    assert Counter((one["transaction_id"], one["duplicate"]) for one in made) == Counter(
        (one["transaction_id"], one["duplicate"]) for one in reference
    )
    told: dict[str, Any] = {}
    for one in made:
        content = {**one, "duplicate": False}
        assert told.setdefault(one["transaction_id"], content) == content
    for slot in ("dead_letters", "labelled_outcomes"):
        assert _identities(killable.out, slot) == _identities(long_whole, slot)
    if processes == 1:
        # One process keeps the order of arrival, so even what was computed anew is the same to the byte.
        assert output(killable.out) == output(long_whole)


def _identities(out: Path, slot: str) -> Counter[str]:
    names = ("topic", "offset", "reason") if slot == "dead_letters" else ("transaction_id", "source", "event_time")
    records = [orjson.loads(line) for line in (out / f"{slot}.jsonl").read_bytes().splitlines()]
    return Counter(json.dumps([record[name] for name in names]) for record in records)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_ends_a_replay_in_order_and_it_goes_on(
    profile: Path, long_events: Path, long_whole: Path, tmp_path: Path, processes: int
) -> None:
    killable = Killable(profile, long_events, tmp_path, processes)
    process = killable.start()
    assert _wait_until(process, killable, 500)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    assert b"stopped in order" in errors
    assert killable.published() < len(decisions(long_whole))
    last = killable.start()
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors.decode()
    assert killable.published() == len(decisions(long_whole))


# Card numbers.


def test_no_card_number_is_found_in_state_outputs_dead_letters_report_or_log(profile: Path, tmp_path: Path) -> None:
    from tests.flows.pans import pans_in_files, pans_in_records, pans_in_state, random_pans  # noqa: PLC0415

    rng = random.Random(9)
    pans = random_pans(rng, 200)
    directory = tmp_path / "events"
    directory.mkdir()
    lines = []
    for number, pan in enumerate(pans):
        record = payment(rng, number, START + timedelta(minutes=number))
        del record["card_id"]
        lines.append(orjson.dumps({**record, "pan": pan, "attributes": {"note": f"card {pan} please"}}))
    lines += [
        b'{"pan": "' + pans[0].encode() + b'", broken',
        orjson.dumps({"account_id": pans[1], "pan": int(pans[2])}),
    ]
    (directory / "transactions.jsonl").write_bytes(b"\n".join(lines))
    out, state, log = tmp_path / "out", tmp_path / "state", tmp_path / "log"
    log.mkdir()
    (tmp_path / "pan-keys.toml").write_text(TokenKeys.new("k1").to_toml())
    words = [sys.executable, "-m", "flows.cli", "replay", "--profile", str(profile), "--events", str(directory)]
    words += ["--out", str(out), "--state", str(state), "--shards", "2"]
    words += ["--pan-keys", str(tmp_path / "pan-keys.toml")]
    with (log / "stdout").open("wb") as told, (log / "stderr").open("wb") as errors:
        code = subprocess.run(words, stdout=told, stderr=errors, check=False, timeout=240).returncode
    assert code == 0, (log / "stderr").read_text()
    assert "200 payments decided" in (log / "stderr").read_text()
    assert (out / "report.html").is_file()
    made = decisions(out)
    assert len(made) == 200
    assert all(one["card_id"] for one in made)
    assert pans_in_files(out, pans) == []
    assert pans_in_files(log, pans) == []
    assert pans_in_state(state, pans) == []
    # The scans themselves find what is planted: in a log, in a record, and in a before-image once it is overwritten.
    with (log / "stderr").open("a") as more:
        more.write(f"weir: card {pans[5]} is wrong")
    assert pans_in_files(log, pans) == [pans[5]]
    shard = next(path.name for path in (state / "shards").iterdir() if path.is_dir())
    with StateHome(state / "shards") as home:
        store = home.open(shard, "planted", None)
        store.put_many([(b"card", b"x" * 500 + pans[6].encode())])
        store.commit()
    assert pans_in_records(state, pans) == [pans[6]]
    with StateHome(state / "shards") as home:
        store = home.open(shard, "planted", 1)
        store.put_many([(b"card", b"gone")])
        store.commit()
    assert pans_in_records(state, pans) == [pans[6]]


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    """Signal handlers of one test must not reach the next."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) == before
