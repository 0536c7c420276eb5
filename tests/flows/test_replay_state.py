"""Replays over a state folder: encrypted, with a changed feature set, within a bound of memory."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import xxhash
from typer.testing import CliRunner

from flows.backup import verify_state
from flows.cli import app
from flows.inspect_state import forget, get_entity, inspect
from flows.profile import load_profile
from flows.replay import ReplayOptions, run_replay
from flows.source import Run
from flows.state_stats import sum_figures
from operators import velocity
from schemas import metrics
from schemas.errors import ConfigError, SecretError, StateLayoutError, WeirError
from schemas.validate import Limits
from state.keys import StateKeys
from state.options import MIB, StateOptions
from state.raw import RawShard, shard_names_in
from tests.flows.test_replay import NOW_US, _StopAfter
from tests.flows.traffic import FEATURES, decisions, write_events, write_profile

A, B = bytes(range(32)), bytes(range(40, 80))
KEYS = StateKeys("a", {"a": A})
CHANGED = (
    FEATURES.replace('id = "test-1"', 'id = "test-2"')
    .replace('windows = ["10m", "1h", "24h"]', 'windows = ["10m", "1h", "2h", "24h", "40h"]')
    .replace('distinct = { account_id = ["1h"] }', 'distinct = { account_id = ["1h"], device_id = ["2h"] }')
    .replace('windows = ["1h", "24h"]\namount = ["count", "max"]', 'windows = ["24h"]\namount = ["count", "max"]')
)


def replay(
    profile: Path, events: Path, out: Path, state: Path, *, keys: StateKeys | None = None,
    stop_after: int | None = None, memory: StateOptions | None = None,
) -> Run:  # fmt: skip
    run = Run()
    options = ReplayOptions(
        events=events, out=out, state=state, batch=100, epoch=timedelta(milliseconds=200), limits=Limits(),
        tokeniser=None, now_us=NOW_US, shards=2, state_keys=keys, memory=memory or StateOptions(),
    )  # fmt: skip
    if stop_after is not None:
        run.stop = _StopAfter(stop_after)
    run_replay(load_profile(profile), options, run)
    return run


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_profile(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_profile(tmp_path_factory.mktemp("changed"))
    (folder / "features.toml").write_text(CHANGED)
    return folder


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_events(tmp_path_factory.mktemp("events"), payments=1_200)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, profile: Path, events: Path) -> Path:
    """An uninterrupted replay over a folder without encryption: out and state beside each other."""
    folder = tmp_path_factory.mktemp("plain")
    run = replay(profile, events, folder / "out", folder / "state")
    assert run.finished
    return folder


def on_disk(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def payments_of(events: Path) -> Iterator[dict[str, Any]]:
    for line in (events / "transactions.jsonl").read_bytes().splitlines():
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(record, dict) and "account_id" in record:
            yield record


def test_an_encrypted_state_decides_the_same_and_holds_nothing_readable(
    profile: Path, events: Path, plain: Path, tmp_path: Path
) -> None:
    both = StateKeys("b", {"a": A, "b": B})
    assert not replay(profile, events, tmp_path / "out", tmp_path / "state", keys=KEYS, stop_after=6).finished
    assert replay(profile, events, tmp_path / "out", tmp_path / "state", keys=both).finished
    for name in ("decisions.jsonl", "labelled_outcomes.jsonl", "dead_letters.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (plain / "out" / name).read_bytes()
    readable, sealed = on_disk(plain / "state"), on_disk(tmp_path / "state")
    needles = set()
    for record in payments_of(events):
        needles |= {record[name].encode() for name in ("transaction_id", "account_id", "device_id", "merchant_id")}
    long = [needle for needle in needles if len(needle) > 5]  # shorter ones turn up in random bytes by chance
    assert sum(needle in readable for needle in long) > 300
    assert [needle for needle in long if needle in sealed] == []
    # Of four bytes each, random bytes this many hold one in a thousand times over all needles.
    assert sum(needle in sealed for needle in needles if len(needle) == 4) <= 3
    assert json.loads((tmp_path / "state" / "manifest.json").read_text())["encryption"]["key"] == "b"


@pytest.mark.parametrize(
    ("written", "given", "error", "told"),
    [
        (KEYS, None, SecretError, r"encrypted under key 'a', and no state keys are given; set WEIR_STATE_KEYS_FILE"),
        (KEYS, StateKeys("a", {"a": B}), SecretError, r"key 'a' of the state keys is not the one it was written under"),
        (KEYS, StateKeys("b", {"b": B}), SecretError, r"last written under key 'a', and the state keys given are 'b'"),
        (None, KEYS, SecretError, r"written without encryption, and state keys are given; unset"),
    ],
)
def test_wrong_keys_are_refused_before_anything_is_decided(
    profile: Path, events: Path, tmp_path: Path, written: StateKeys | None, given: StateKeys | None,
    error: type[WeirError], told: str,
) -> None:  # fmt: skip
    replay(profile, events, tmp_path / "out", tmp_path / "state", keys=written, stop_after=2)
    before = (tmp_path / "out" / "decisions.jsonl").read_bytes()
    with pytest.raises(error, match=rf"--state .*{told}"):
        replay(profile, events, tmp_path / "out", tmp_path / "state", keys=given)
    assert (tmp_path / "out" / "decisions.jsonl").read_bytes() == before


def test_a_changed_feature_set_goes_on_with_what_state_holds(
    profile: Path, changed: Path, events: Path, tmp_path: Path
) -> None:
    replay(changed, events, tmp_path / "whole", tmp_path / "whole-state")
    assert not replay(profile, events, tmp_path / "out", tmp_path / "state", stop_after=7).finished
    before = decisions(tmp_path / "out")
    assert replay(changed, events, tmp_path / "out", tmp_path / "state").finished
    after = decisions(tmp_path / "out")
    assert after[: len(before)] == before
    right = {one["transaction_id"]: one for one in decisions(tmp_path / "whole") if not one["duplicate"]}
    warming: set[str] = set()
    settled = 0
    for one in after[len(before) :]:
        if one["duplicate"]:
            continue
        flagged = {flag.removeprefix("warming:") for flag in one["quality_flags"] if flag.startswith("warming:")}
        warming |= flagged
        for name, value in one["features"].items():
            if name.rsplit("_", 1)[-1] in flagged:
                continue
            expected = right[one["transaction_id"]]["features"][name]
            same = value == expected or (isinstance(value, float) and math.isclose(value, expected, rel_tol=1e-9))
            assert same, (one["transaction_id"], name, value, expected)
            settled += 1
    assert settled > 5_000
    assert warming == {"2h", "24h", "40h"}  # 24h and 40h: the first day is not over
    late = [one for one in after[len(before) :] if one["event_time"] > "2026-03-02T02:00:00Z"]
    assert {flag for one in late for flag in one["quality_flags"] if flag.startswith("warming:")} == {"warming:40h"}
    assert {one["versions"]["feature_set_id"] for one in after} == {"test-1", "test-2"}
    labelled = [orjson.loads(line) for line in (tmp_path / "out" / "labelled_outcomes.jsonl").read_bytes().splitlines()]
    of_before = {one["transaction_id"]: one for one in before}
    mixed = 0
    for one in labelled:  # a label tells the very values that were scored, under the names they had
        scored = of_before.get(one["transaction_id"])
        if scored is not None:
            assert one["features"] == scored["features"]
            mixed += "account.count_2h" not in one["features"]
    assert mixed > 20
    with pytest.raises(ConfigError, match=r"id = 'test-1' ran on --state .* before 'test-2' .*; give the content a"):
        replay(profile, events, tmp_path / "out", tmp_path / "state")


def test_other_content_under_the_same_id_and_other_entities_are_refused(
    profile: Path, events: Path, tmp_path: Path
) -> None:
    replay(profile, events, tmp_path / "out", tmp_path / "state", stop_after=2)
    other = write_profile(tmp_path / "other")
    features = load_profile(profile).features
    for text, told in (
        (
            CHANGED.replace("test-2", "test-1"),
            rf"other/features.toml: id = 'test-1' is bound to the content of hash {features.hash[:12]} in --state .*, "
            r"the file's is [0-9a-f]{12}; give the changed content a new id",
        ),
        (CHANGED.replace("[entities.pair]", "[entities.couple]"), "keeps the entities of the state; expected .*'pair'"),
        (CHANGED.replace('"EUR"', '"USD"'), "keeps the base currency of the state; expected 'EUR', found 'USD'"),
    ):
        (other / "features.toml").write_text(text)
        with pytest.raises(ConfigError, match=told):
            replay(other, events, tmp_path / "out", tmp_path / "state")


def test_a_state_folder_of_a_newer_format_is_refused(profile: Path, events: Path, tmp_path: Path) -> None:
    replay(profile, events, tmp_path / "out", tmp_path / "state", stop_after=2)
    manifest = tmp_path / "state" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))
    with pytest.raises(StateLayoutError, match=r"manifest.json has format 2, this program reads 1; start the release"):
        replay(profile, events, tmp_path / "out", tmp_path / "state")


def test_little_memory_decides_the_same_and_the_figures_tell_it(
    profile: Path, events: Path, plain: Path, tmp_path: Path
) -> None:
    memory = StateOptions.of_memory(8, record_cache_mib=0)
    assert (memory.block_cache_bytes, memory.write_buffer_bytes, memory.record_cache_bytes) == (2 * MIB, 2 * MIB, 0)
    run = replay(profile, events, tmp_path / "out", tmp_path / "state", memory=memory)
    assert (tmp_path / "out" / "decisions.jsonl").read_bytes() == (plain / "out" / "decisions.jsonl").read_bytes()
    known = {metric.name for metric in metrics.METRICS}
    assert run.state.keys() <= known
    assert run.state["weir_state_cache_lookups_total"]["miss"] > 1_000
    assert run.state["weir_state_cache_bytes"]["record"] < 100_000
    for name in ("weir_state_disk_bytes", "weir_state_undo_bytes", "weir_state_write_buffer_bytes"):
        assert run.state[name][""] > 10_000
    assert (
        sum_figures([run.state, run.state])["weir_state_disk_bytes"][""] == 2 * run.state["weir_state_disk_bytes"][""]
    )


def test_the_command_takes_keys_and_memory(
    profile: Path, events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = base64.b64encode(A).decode()
    monkeypatch.setenv("WEIR_STATE_KEYS", f'active = "a"\n[keys.a]\nsecret = "{secret}"\n')
    arguments = ["replay", "--profile", str(profile), "--events", str(events), "--out", str(tmp_path / "out")]
    arguments += ["--state", str(tmp_path / "state"), "--memory", "32", "--no-report", "--shards", "1"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert json.loads((tmp_path / "state" / "manifest.json").read_text())["encryption"]["key"] == "a"
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["state"]
    assert figures["weir_state_disk_bytes"][""] > 10_000
    state = tmp_path / "state"
    assert verify_state(state)["records"] > 1_000
    counted = {step["step"]: step["records"] for shard in inspect(state)["shards"] for step in shard["steps"]}
    assert counted["seen"]["payments seen"] == len({one["transaction_id"] for one in decisions(tmp_path / "out")})
    assert get_entity(state, profile, "account", ["A003"], related=False)["records"]["entities"]["last_payment"]
    assert forget(state, profile, "A003", None)["payments"] > 0
    assert get_entity(state, profile, "account", ["A003"], related=True)["records"] == {}
    monkeypatch.delenv("WEIR_STATE_KEYS")
    with pytest.raises(SecretError, match="encrypted under key 'a', and no state keys are given"):
        get_entity(state, profile, "account", ["A004"], related=False)
    with pytest.raises(SecretError, match="no state keys are given"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    with pytest.raises(ConfigError, match="expected at least 8 MiB, found 7"):
        StateOptions.of_memory(7)


def test_the_runbook_of_state_keys_rotates_and_retires_a_key(
    profile: Path, events: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, both, new = KEYS, StateKeys("b", {"a": A, "b": B}), StateKeys("b", {"b": B})
    out, state = tmp_path / "out", tmp_path / "state"
    assert not replay(profile, events, out, state, keys=old, stop_after=4).finished
    assert not replay(profile, events, out, state, keys=both, stop_after=2).finished
    with pytest.raises(SecretError, match="written under key 'a', and the state keys given are 'b'"):
        replay(profile, events, out, state, keys=new)
    one, other = base64.b64encode(A).decode(), base64.b64encode(B).decode()
    text = f'active = "b"\n[keys.a]\nsecret = "{one}"\n[keys.b]\nsecret = "{other}"\n'
    monkeypatch.setenv("WEIR_STATE_KEYS", text)
    told = CliRunner().invoke(app, ["state", "rekey", "--state", str(state)], catch_exceptions=False)
    assert told.exit_code == 0
    assert "records written anew under key 'b'" in told.output
    assert replay(profile, events, out, state, keys=new).finished
    assert (out / "decisions.jsonl").read_bytes() == (plain / "out" / "decisions.jsonl").read_bytes()


def test_what_was_not_touched_since_the_feature_set_changed_is_told_and_forgotten_by_its_own_shape(
    profile: Path, changed: Path, events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(velocity, "SWEEP_RECORDS", 1)  # or the sweep carries so few entities over at once
    state = tmp_path / "state"
    assert not replay(profile, events, tmp_path / "out", state, stop_after=9).finished
    met = {one["account_id"] for one in decisions(tmp_path / "out")}
    before = {name: get_entity(state, profile, "account", [name], related=False)["records"] for name in met}
    already = len(decisions(tmp_path / "out"))
    assert not replay(changed, events, tmp_path / "out", state, stop_after=1).finished
    touched = {one["account_id"] for one in decisions(tmp_path / "out")[already:]}
    quiet = [one for one in sorted(met - touched) if "payments" in before[one]["entities"]["series"]]
    kept = []
    for name in quiet:
        told = get_entity(state, changed, "account", [name], related=False)["records"]["entities"]
        of_before = before[name]["entities"]
        assert told["last_payment"] == of_before["last_payment"]
        series = of_before["series"]["payments"]
        assert told["series"]["payments"]["newest"] == series["newest"]
        if told["series"]["payments"]["windows"] == series["windows"]:  # as it was kept, not as it is declared now
            kept.append(name)
    assert kept

    subject = kept[0]
    digest = xxhash.xxh3_64_intdigest(subject.encode()).to_bytes(8, "little")
    options = StateOptions(compression="none")
    assert digest in on_disk_records(state)
    forget(state, changed, subject, None, options)
    assert digest not in on_disk_records(state)
    for name in set(quiet) - {subject}:
        told = get_entity(state, changed, "account", [name], related=False)["records"]["entities"]
        assert told["series"]["payments"]["newest"] == before[name]["entities"]["series"]["payments"]["newest"]
    assert replay(changed, events, tmp_path / "out", state).finished


def on_disk_records(state: Path) -> bytes:
    parts = []
    for name in shard_names_in(state / "shards"):
        with RawShard(state / "shards" / name) as raw:
            parts += [part for step in raw.steps for record in raw.records(step) for part in record]
    return b"\0".join(parts)
