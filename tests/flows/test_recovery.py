"""What was published wins, what bytewax commits is on disk, and a replay may change its number of processes."""

from __future__ import annotations

import signal
import struct
import subprocess
from collections import Counter, defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.cluster import free_addresses
from flows.profile import Profile, load_profile
from flows.replay import ReplayOptions, run_replay
from flows.source import Run
from operators.inflight import Value
from operators.window_plan import Limits as WindowLimits
from operators.window_plan import Plan
from operators.window_record import HEAD_WORDS
from schemas.validate import Limits
from state.shards import shard_names, worker_of
from tests.flows.running import Replay, ended, faulty, kill_tree, wait_for
from tests.flows.traffic import POLICY, START, decisions, write_events, write_profile

NOW_US = int((START + timedelta(days=30)).timestamp()) * 1_000_000
ALWAYS = """
[[rules]]
id = "always"
when = "amount >= 0"
action = "review"
reason = "VELOCITY_BURST"
"""


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("shards", [4, 8, 32])
def test_shards_are_spread_over_workers_as_evenly_as_their_number_allows(workers: int, shards: int) -> None:
    owned = Counter(worker_of(name, workers) for name in shard_names(shards))
    assert sorted(owned) == list(range(workers))
    assert max(owned.values()) - min(owned.values()) <= 1


# A published decision wins.


def test_a_published_decision_wins_over_another_one_computed_after_a_kill(tmp_path: Path) -> None:
    profile = write_profile(tmp_path / "profile")
    (tmp_path / "events").mkdir()
    events = write_events(tmp_path / "events", payments=1_000, hours=17, seed=8)
    # Every payment comes once more at the end.
    path = events / "transactions.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines, *(line for line in lines if b'"account_id"' in line)]) + b"\n")
    killed = Replay(profile, events, tmp_path, "--batch", "50", "--epoch", "0.1")
    code, _, errors = ended(killed.start(program=faulty("kill-unpublished=4")))
    assert code == -signal.SIGKILL, errors
    published = (killed.out / "decisions.jsonl").read_bytes()
    committed = {key[5:].decode() for (_, step, key) in killed.records() if step == "ledger" and key[:1] == b"d"}
    before = {one["transaction_id"]: one for one in map(orjson.loads, published.splitlines())}
    exposed = set(before) - committed
    assert committed
    assert len(exposed) >= 10

    # Another rule, which nobody but this test could sneak into a resume: the manifest would refuse it.
    changed = write_profile(tmp_path / "changed")
    (changed / "policy.toml").write_text(POLICY + ALWAYS)
    first, second = load_profile(profile), load_profile(changed)
    object.__setattr__(second.policy, "hash", first.policy.hash)
    run_replay(second, _options(events, killed), Run())

    assert (killed.out / "decisions.jsonl").read_bytes().startswith(published)
    answers = [one for one in decisions(killed.out) if one["duplicate"]]
    answered = {one["transaction_id"] for one in answers}
    assert exposed <= answered
    for one in answers:
        if one["transaction_id"] in before:
            assert {**one, "duplicate": False} == {**before[one["transaction_id"]], "duplicate": False}
        else:
            assert {"rule": "always", "action": "review"} in one["rule_hits"]
    assert not any(hit["rule"] == "always" for name in exposed for hit in before[name]["rule_hits"])
    once = Counter(one["transaction_id"] for one in decisions(killed.out) if not one["duplicate"])
    assert set(once.values()) == {1}
    assert len(once) == 1_000

    # What waited for a label is what was published, not what was computed again.
    said = {one["transaction_id"]: one for one in decisions(killed.out) if not one["duplicate"]}
    labelled = [orjson.loads(line) for line in (killed.out / "labelled_outcomes.jsonl").read_bytes().splitlines()]
    assert len([one for one in labelled if one["transaction_id"] in exposed]) >= 10
    for one in labelled:
        of = said[one["transaction_id"]]
        assert [one[name] for name in ("action", "score", "features")] == [
            of[name] for name in ("action", "score", "features")
        ]


def _options(events: Path, of: Replay) -> ReplayOptions:
    return ReplayOptions(
        events=events,
        out=of.out,
        state=of.state,
        batch=50,
        epoch=timedelta(milliseconds=200),
        limits=Limits(),
        tokeniser=None,
        now_us=NOW_US,
        shards=4,
    )


# Another number of processes: 1, then 4, then 2, stopped and started in the middle of the stream.


class Rescaled:
    """The replay that changed, an uninterrupted one, and what each process of the former did to its state."""

    def __init__(self, directory: Path) -> None:
        self.profile = write_profile(directory / "profile")
        (directory / "events").mkdir()
        self.events = write_events(directory / "events", payments=1_500, hours=30, seed=3)
        self.whole = Replay(self.profile, self.events, directory / "whole")
        self.whole.out.parent.mkdir()
        run_replay(load_profile(self.profile), _options(self.events, self.whole), Run())
        self.moved = Replay(self.profile, self.events, directory / "moved", "--batch", "50", "--epoch", "0.3")
        self.moved.out.parent.mkdir()
        self.logs: list[Path] = []
        for processes, target in [(1, 400), (4, 900), (2, None)]:
            self.logs.append(directory / f"log-{len(self.logs)}-{processes}")
            self.logs[-1].mkdir()
            self._run(processes, target, self.logs[-1])

    def _run(self, processes: int, target: int | None, log: Path) -> None:
        addresses = free_addresses(processes)
        program = faulty(f"log-state={log}")
        members: list[subprocess.Popen[str]] = []
        try:
            for number in range(processes):
                member = ("--member", ",".join([str(number), *addresses])) if processes > 1 else ()
                members.append(self.moved.start(*member, program=program))
            if target is not None:
                wait_for(members[0], lambda: self.moved.published() >= target)
                for member_process in members:
                    member_process.send_signal(signal.SIGTERM)
            for member_process in members:
                code, _, errors = ended(member_process)
                assert code == 0, errors
        finally:
            for member_process in members:
                kill_tree(member_process)


@pytest.fixture(scope="module")
def rescaled(tmp_path_factory: pytest.TempPathFactory) -> Rescaled:
    return Rescaled(tmp_path_factory.mktemp("rescaled"))


def test_rescaled_every_payment_is_decided_once_and_retries_repeat_what_was_said(rescaled: Rescaled) -> None:
    made, reference = decisions(rescaled.moved.out), decisions(rescaled.whole.out)
    assert Counter((one["transaction_id"], one["duplicate"]) for one in made) == Counter(
        (one["transaction_id"], one["duplicate"]) for one in reference
    )
    told: dict[str, Any] = {}
    for one in made:
        content = {**one, "duplicate": False}
        assert told.setdefault(one["transaction_id"], content) == content


@pytest.mark.parametrize(
    ("slot", "names"),
    [
        ("dead_letters", ("topic", "offset", "reason")),
        ("labelled_outcomes", ("transaction_id", "source", "event_time", "label")),
    ],
)
def test_rescaled_the_other_outputs_hold_the_same_records(
    rescaled: Rescaled, slot: str, names: tuple[str, ...]
) -> None:
    def told(of: Replay) -> Counter[tuple[Any, ...]]:
        records = [orjson.loads(line) for line in (of.out / f"{slot}.jsonl").read_bytes().splitlines()]
        return Counter(tuple(record[name] for name in names) for record in records)

    assert told(rescaled.moved) == told(rescaled.whole)
    assert told(rescaled.whole)


def test_rescaled_every_decision_recomputes_from_its_own_record(rescaled: Rescaled) -> None:
    recompute(rescaled.profile, decisions(rescaled.moved.out))


def recompute(profile: Path, decided: list[dict[str, Any]]) -> None:
    """Each decision follows from what its own record says."""
    policy = load_profile(profile).policy
    for one in decided:
        # JSON has no NaN: an absent number is null, and a rule takes both for absent.
        values: list[Value] = [float("nan") if value is None else value for value in one["features"].values()]
        active = policy.evaluate(values)
        verdict = policy.decide(active, one["score"])
        assert verdict.action.wire == one["action"]
        assert list(verdict.reasons) == one["reason_codes"]
        assert [hit.rule_id for hit in active.hits] == [hit["rule"] for hit in one["rule_hits"]]


def test_rescaled_the_state_of_every_entity_is_the_same_in_canonical_form(rescaled: Rescaled) -> None:
    profile = load_profile(rescaled.profile)
    moved, whole = canonical(profile, rescaled.moved), canonical(profile, rescaled.whole)
    assert moved.keys() == whole.keys()
    assert [name for name in whole if moved[name] != whole[name]] == []
    assert {name[0] for name in whole} == {"seen", "decide", "ledger", "account", "device", "merchant", "pair"}


def canonical(profile: Profile, replayed: Replay) -> dict[tuple[str, str, bytes], Any]:
    """State without what depends on the order in which two events of one moment or two shards arrived.

    Rows of windows and fixes of tracks sorted; a device's accounts as a mapping; of scored payments that wait for
    their label, of the ledger and of what waits: the keys alone, since content and place follow the order. Left out:
    the shards' clocks and meta records, and the model, whose weights follow the order of the labels.
    """
    widths = {
        spec.name: [int(width) for width in Plan(profile.features, spec, WindowLimits()).series[:, 0]]
        for spec in profile.features.entities
    }
    found: dict[tuple[str, str, bytes], Any] = {}
    rows: defaultdict[tuple[str, str, bytes], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for (_, step, key), value in replayed.records().items():
        kind = key[:1]
        if step in ("decide", "ledger"):
            if key not in (b"M", b"A"):
                found[step, "key", key] = True
        elif step == "seen":
            found[step, "bytes", key] = value
        elif kind == b"v":
            words = struct.unpack(f"<{len(value) // 8}q", value)
            if key[:2] == b"vh":
                counts = words[HEAD_WORDS : HEAD_WORDS + len(widths[step])]
                at = HEAD_WORDS + len(counts)
                for series, (count, width) in enumerate(zip(counts, widths[step], strict=True)):
                    for _ in range(count):
                        rows[step, "rows", key[2:]].append((series, words[at : at + width]))
                        at += width
                assert at == len(words)
            elif key[:2] == b"vc":
                width = widths[step][key[-5]]
                for at in range(0, len(words), width):
                    rows[step, "rows", key[2:-5]].append((key[-5], words[at : at + width]))
        elif kind == b"t" and len(key) > 1:
            found[step, "track", key] = sorted(value[at : at + 20] for at in range(1, len(value), 20))
        elif kind == b"r" and len(key) > 1:
            found[step, "device", key] = device(value)
        elif kind == b"i" and len(key) > 1:
            found[step, "bytes", key] = value
    found.update({name: sorted(held) for name, held in rows.items()})
    return found


def device(record: bytes) -> tuple[Any, ...]:
    _, flags, blocked, fingerprint, accounts, *times = struct.unpack_from("<BBBBHHqqq", record)
    size = struct.calcsize("<BBBBHHqqq")
    tail = struct.unpack_from(f"<{blocked + fingerprint + accounts}q{accounts}Q", record, size)
    known = dict(zip(tail[len(tail) - accounts :], tail[blocked + fingerprint :], strict=False))
    return flags, times, tail[: blocked + fingerprint], known


# Durable before bytewax commits.


def _read(log: Path) -> list[list[list[str]]]:
    return [[line.split() for line in path.read_text().splitlines()] for path in sorted(log.iterdir())]


def test_every_version_that_a_resume_asks_for_was_synced_to_disk_by_whatever_process_made_it(
    rescaled: Rescaled,
) -> None:
    asked = 0
    durable: dict[tuple[str, str], set[int]] = {}
    for log in rescaled.logs:
        runs = _read(log)
        for words in (words for run in runs for words in run if words[0] == "open" and words[3] != "0"):
            asked += 1
            assert int(words[3]) in durable[words[1], words[2]], f"{log.name}: {words}"
        for run in runs:
            waiting: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
            for what, shard, *rest in run:
                if what == "commit":
                    waiting[shard].append((rest[0], int(rest[1])))
                elif what == "sync":
                    for step, version in waiting.pop(shard, []):
                        durable.setdefault((shard, step), set()).add(version)
    assert asked >= 40


def test_an_epoch_costs_one_flush_a_shard_at_the_most(rescaled: Rescaled) -> None:
    seen = 0
    for log in rescaled.logs:
        for run in _read(log):
            commits = Counter((shard, rest[0]) for what, shard, *rest in run if what == "commit")
            for shard, syncs in Counter(words[1] for words in run if words[0] == "sync").items():
                epochs = max(count for (of, _), count in commits.items() if of == shard)
                assert syncs <= epochs + 1, (log.name, shard)  # one for the layouts that opening notes
                seen += syncs
    assert seen >= 20


def test_all_processes_of_a_cluster_sync_their_shards(rescaled: Rescaled) -> None:
    runs = _read(rescaled.logs[1])
    assert len(runs) == 4
    for run in runs:
        assert {words[1] for words in run if words[0] == "sync"} >= {words[1] for words in run if words[0] == "commit"}
