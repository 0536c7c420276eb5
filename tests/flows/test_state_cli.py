"""`weir state` on real replays: backed up while running, restored onto an empty machine, looked into, forgotten.

Long, because all its tests work on one replay's input and compare with its uninterrupted output.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.backup import inconsistencies, make_backup, restore, verify_state
from flows.control import CONTROL
from flows.inspect_state import forget, get_entity, inspect
from flows.publish import SLOTS
from flows.recovery import read_recovery, recovery_file
from schemas.errors import BackupError, ConfigError, StateError, StateLockedError
from state.backup import RESTORING, load_manifest
from state.object_store import ObjectStore
from state.options import StateOptions
from state.raw import RawShard, shard_names_in
from state.store import StateHome
from tests.flows.test_replay import replay
from tests.flows.traffic import decisions, write_events, write_profile


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_profile(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scattered(write_events(tmp_path_factory.mktemp("events"), payments=3_000, hours=30, seed=3))


def scattered(events: Path) -> Path:
    """Ids that do not follow each other.

    Between two blocks RocksDB writes a made-up key, such as the first one's plus 1, which would be taken for a trace.
    """

    for path in events.glob("*.jsonl"):
        path.write_bytes(
            re.sub(rb"T\d{6}|\bA\d{3}\b", lambda found: other(found[0].decode()).encode(), path.read_bytes())
        )
    return events


def other(name: str) -> str:
    """What an id of the generated events is called here."""
    return name[0] + hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


SUBJECT, NEIGHBOUR = other("A003"), other("A004")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, profile: Path, events: Path) -> Path:
    out = tmp_path_factory.mktemp("whole")
    replay(profile, events, out)
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, profile: Path, events: Path) -> Path:
    """A state and its output, stopped in order half-way; copied by who changes it."""
    directory = tmp_path_factory.mktemp("stopped")
    replay(profile, events, directory / "out", state=directory / "state", batch=50, stop_after=30)
    return directory


@pytest.fixture
def half(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "half")
    return tmp_path / "half"


class Flow:
    """`weir replay` on a directory, as processes."""

    def __init__(self, profile: Path, events: Path, directory: Path, processes: int = 1, *more: str) -> None:
        self.state, self.out = directory / "state", directory / "out"
        self.command = [sys.executable, "-m", "flows.cli", "replay", "--profile", str(profile), "--events", str(events)]
        self.command += ["--out", str(self.out), "--state", str(self.state), "--batch", "20", "--epoch", "0.2"]
        self.command += ["--shards", "4", "--processes", str(processes), "--no-report", *more]

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, start_new_session=True, stderr=subprocess.PIPE)

    def finish(self) -> None:
        process = self.start()
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()

    def wait_for(self, process: subprocess.Popen[bytes], published: int) -> None:
        while process.poll() is None and self.published() < published:
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be backed up"

    def published(self) -> int:
        path = self.out / "decisions.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and all below it, each of which has a session of its own."""
    below = [process.pid]
    for pid in below:
        children = Path(f"/proc/{pid}/task/{pid}/children")
        below += [int(child) for child in children.read_text().split()] if children.exists() else []
    for pid in below:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


def output(out: Path) -> dict[str, bytes]:
    return {slot: (out / f"{slot}.jsonl").read_bytes() for slot in SLOTS}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", "state", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("topic", ["as it is", "cut to the backup"])
def test_a_backup_of_a_running_flow_is_gone_on_from_on_an_empty_machine(
    profile: Path, events: Path, whole: Path, tmp_path: Path, topic: str
) -> None:
    flow = Flow(profile, events, tmp_path, 1, "--rate", "500")  # slow: two backups are made before it has ended
    url = f"file://{tmp_path}/backups"
    process = flow.start()
    try:
        flow.wait_for(process, 600)
        make_backup(flow.state, url)
        flow.wait_for(process, flow.published() + 200)
        again = make_backup(flow.state, url)
        flow.wait_for(process, flow.published() + 200)  # published behind the backup
        assert verify_state(flow.state)["shards"] == 8  # while it runs
    finally:
        kill_all(process)
    assert again.copied_files < len(again.manifest.files)
    shutil.rmtree(flow.state)
    manifest, known = restore(url, flow.state, None)
    assert manifest.id == again.manifest.id
    assert 0 < known.offsets["decisions"] < (flow.out / "decisions.jsonl").stat().st_size
    if topic != "as it is":
        for slot, offset in known.offsets.items():
            os.truncate(flow.out / f"{slot}.jsonl", offset)
    assert verify_state(flow.state)["epoch"] == known.epoch
    flow.finish()
    assert output(flow.out) == output(whole)


def test_a_backup_taken_early_serves_after_the_flow_has_ended(
    profile: Path, events: Path, whole: Path, tmp_path: Path
) -> None:
    flow = Flow(
        profile, events, tmp_path, 1, "--rate", "1500", "--backup-to", f"file://{tmp_path}/b", "--backup-every", "1"
    )
    flow.finish()
    metrics = json.loads((flow.out / "metrics.json").read_text())
    assert metrics["backups"]["failed"] == 0
    assert metrics["backups"]["made"] >= 1
    shutil.rmtree(flow.state)
    restored = run("restore", "--from", f"file://{tmp_path}/b", "--state", str(flow.state))
    assert restored.returncode == 0, restored.stderr
    assert "the flow resumes at epoch" in restored.stdout
    flow.finish()
    assert output(flow.out) == output(whole)


def test_a_cluster_is_backed_up_to_one_epoch(profile: Path, events: Path, whole: Path, tmp_path: Path) -> None:
    flow = Flow(profile, events, tmp_path, 2)
    url = f"file://{tmp_path}/backups"
    process = flow.start()
    try:
        flow.wait_for(process, 600)
        make_backup(flow.state, url)
        flow.wait_for(process, flow.published() + 200)
    finally:
        kill_all(process)
    shutil.rmtree(flow.state)
    restore(url, flow.state, None)
    flow.finish()
    # Two processes keep no order; which decisions there are, once each, is the same.
    made = [one for one in decisions(flow.out) if not one["duplicate"]]
    expected = Counter(one["transaction_id"] for one in decisions(whole) if not one["duplicate"])
    assert Counter(one["transaction_id"] for one in made) == expected
    first = {one["transaction_id"]: one for one in made}
    assert all({**one, "duplicate": False} == first[one["transaction_id"]] for one in decisions(flow.out))


def test_the_recovery_store_is_copied_before_the_shards_and_pruning_is_held(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that pruned what the copied recovery store knows is found out, and no backup is made."""
    state = half / "state"
    known = read_recovery(recovery_file(state))
    (shard, step), version = next(one for one in sorted(known.versions.items()) if one[0][1] == "account")
    with StateHome(state / "shards", StateOptions(versions_kept=1)) as home:
        store = home.open(shard, step, version)
        for _ in range(5):
            store.put_many([(b"vhsomebody", b"x" * 80)])
            store.commit()
    assert inconsistencies(state / "shards", known) == [
        f"shard {step}/{shard}: the recovery store knows version {version}, "
        f"the shard keeps {version + 4}..{version + 5}"
    ]
    monkeypatch.setattr("flows.backup._STARTING_S", 0.0)
    with pytest.raises(StateError, match="no whole copy could be made"):
        make_backup(state, f"file://{half}/b")
    with pytest.raises(StateError, match=r"recovery store knows version .*restore a backup"):
        verify_state(state)
    assert list((state / "checkpoints").iterdir()) == []


def test_a_second_backup_of_a_stopped_flow_copies_nothing(half: Path) -> None:
    url = f"file://{half}/b"
    first = make_backup(half / "state", url)
    assert first.copied_files > 20
    second = make_backup(half / "state", url)
    ssts = [one.path for one in second.manifest.files if one.path.endswith(".sst")]
    assert len(ssts) > 10
    assert {one for one in second.manifest.files if one.path.endswith(".sst")} <= set(first.manifest.files)
    third = make_backup(half / "state", url, keep=1)
    assert {one for one in third.manifest.files if one.path.endswith(".sst")} <= set(first.manifest.files)
    assert run("backups", "--from", url).stdout.count("epoch") == 1
    assert run("verify", "--from", url).returncode == 0


def test_a_socket_left_over_by_a_killed_flow_means_nothing(half: Path) -> None:
    import socket  # noqa: PLC0415

    control = half / "state" / CONTROL
    control.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        folder = os.open(control, os.O_RDONLY)  # a path of any length: pytest's may be too long for a socket's name
        try:
            left.bind(f"/proc/self/fd/{folder}/0-of-1.sock")
        finally:
            os.close(folder)
    assert make_backup(half / "state", f"file://{half}/b").copied_files


def test_a_flow_in_another_process_keeps_the_shards_from_being_opened(half: Path) -> None:
    with StateHome(half / "state" / "shards") as home:  # as a flow that does not answer yet
        home.open_as_they_are(shard_names_in(half / "state" / "shards")[:1])
        with pytest.raises(StateLockedError, match="open in another"):
            make_backup(half / "state", f"file://{half}/b")


def test_a_damaged_file_ends_a_restore_and_the_flow_refuses_what_it_left(
    half: Path, profile: Path, events: Path, tmp_path: Path
) -> None:
    url = f"file://{half}/b"
    manifest = make_backup(half / "state", url).manifest
    name = next(one for one in manifest.files if one.path.endswith(".sst"))
    stored = half / "b" / "files" / manifest.lineage / name.sha256
    content = bytearray(stored.read_bytes())
    content[10] ^= 1
    stored.write_bytes(content)
    verified = run("verify", "--from", url)
    assert verified.returncode == 2
    assert f"{name.path} is damaged" in verified.stderr
    restored = run("restore", "--from", url, "--state", str(tmp_path / "new"))
    assert restored.returncode == 2
    assert f"{name.path} is damaged" in restored.stderr
    assert (tmp_path / "new" / RESTORING).is_file()
    with pytest.raises(BackupError, match="a restore into it was not finished"):
        replay(profile, events, half / "out", state=tmp_path / "new")


def test_a_damaged_shard_is_named_by_verify(half: Path) -> None:
    state = half / "state"
    make_backup(state, f"file://{half}/b")  # what was only in logs is in files now
    assert run("verify", "--state", str(state)).returncode == 0
    worst = max((state / "shards").glob("s*/*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(worst.read_bytes())
    content[len(content) // 2] ^= 0xFF
    worst.write_bytes(content)
    found = run("verify", "--state", str(state))
    assert found.returncode == 1
    assert worst.parent.name in found.stderr
    assert worst.name in found.stderr
    assert "corrupt-shard.md" in found.stderr


def test_inspect_counts_what_is_there(half: Path) -> None:
    told = inspect(half / "state")
    by_step: dict[str, Counter[str]] = {}
    for shard in told["shards"]:
        for step in shard["steps"]:
            by_step.setdefault(step["step"], Counter()).update(step["records"])
            assert step["oldest_version"] <= step["resumes_at"] <= step["version"]
    published = {one["transaction_id"] for one in decisions(half / "out")}
    assert by_step["seen"]["payments seen"] == len(published)
    assert by_step["ledger"]["published"] == len(published)
    accounts = {one["account_id"] for one in decisions(half / "out")}
    assert len(accounts) <= by_step["account"]["entities"] <= 40
    assert by_step["device"]["devices"] > 0
    assert not any(kinds["unknown"] for kinds in by_step.values())
    oldest = [one["oldest_record"] for shard in told["shards"] for one in shard["steps"] if one["step"] == "seen"]
    assert min(oldest).startswith("2026-03-01")
    shown = run("inspect", "--state", str(half / "state"))
    assert shown.returncode == 0
    assert "payments seen" in shown.stdout
    assert json.loads(run("inspect", "--state", str(half / "state"), "--json").stdout) == told


def test_get_tells_everything_of_an_entity(half: Path, profile: Path) -> None:
    told = get_entity(half / "state", profile, "account", [SUBJECT], related=True)
    mine = [one for one in decisions(half / "out") if one["account_id"] == SUBJECT and not one["duplicate"]]
    entity = told["records"]["entities"]
    assert entity["series"]["payments"]["rows"] > 0
    assert entity["last_payment"] == max(one["event_time"] for one in mine)
    assert set(told["records"]) >= {"entities", "identities", "in-person tracks", "remote tracks"}
    assert all(-90 <= fix["latitude"] <= 90 for fix in told["records"]["remote tracks"]["fixes"])
    assert {one["step"] for one in told["related"]} >= {"pair", "seen"}
    device = get_entity(half / "state", profile, "device", ["D004"], related=False)["records"]["devices"]
    assert device["accounts"] >= 1
    assert get_entity(half / "state", profile, "account", ["nobody"], related=False)["records"] == {}
    with pytest.raises(ConfigError, match="looks like a card number"):
        get_entity(half / "state", profile, "account", ["4111111111111111"], related=False)
    with pytest.raises(ConfigError, match="pair \\(account_id merchant_id\\)"):
        get_entity(half / "state", profile, "pair", [SUBJECT], related=False)


# Forgetting.

CLEAR = StateOptions(compression="none")
"""What is not compressed can be searched for."""


def mentions(state: Path, needles: list[bytes]) -> list[tuple[str, bytes]]:
    """Where any of `needles` stands: raw files, and every record and before-image, decompressed."""
    places = {str(path): path.read_bytes() for path in state.rglob("*") if path.is_file()}
    for name in shard_names_in(state / "shards"):
        with RawShard(state / "shards" / name) as raw:
            for step in raw.steps:
                places[f"{name}/{step}"] = b"\0".join(part for record in raw.records(step) for part in record)
                images = [key + b"\0" + (value or b"") for _, key, value in raw.before_images(step)]
                places[f"{name}/{step} before"] = b"\0".join(images)
    return [(place, needle) for place, content in places.items() for needle in needles if needle in content]


def hashes_of(account: str) -> list[bytes]:
    from xxhash import xxh3_64_intdigest  # noqa: PLC0415

    return [xxh3_64_intdigest(account.encode()).to_bytes(8, "little")]


def test_a_forgotten_account_is_in_no_file_record_or_before_image(half: Path, profile: Path) -> None:
    state = half / "state"
    mine = {one["transaction_id"] for one in decisions(half / "out") if one["account_id"] == SUBJECT}
    others = {one["transaction_id"] for one in decisions(half / "out")} - mine
    needles = [SUBJECT.encode(), *hashes_of(SUBJECT), *(name.encode() for name in mine)]
    assert {needle for _, needle in mentions(state, needles)} == set(needles)
    before = get_entity(state, profile, "device", ["D004"], related=False)["records"]["devices"]
    other = get_entity(state, profile, "account", [NEIGHBOUR], related=False)
    found = forget(state, profile, SUBJECT, None, CLEAR)
    assert found["payments"] == len(mine)
    assert mentions(state, needles) == []
    # Nobody else has lost anything, and counts of distinct accounts stay right.
    assert get_entity(state, profile, "device", ["D004"], related=False)["records"]["devices"] == before
    assert get_entity(state, profile, "account", [NEIGHBOUR], related=False) == other
    counted: Counter[str] = Counter()
    for shard in inspect(state)["shards"]:
        for step in shard["steps"]:
            counted.update({f"{step['step']} {kind}": number for kind, number in step["records"].items()})
    assert counted["seen payments seen"] == counted["ledger published"] == len(others)
    verify_state(state)


def test_a_flow_goes_on_after_an_account_was_forgotten(half: Path, profile: Path, events: Path, whole: Path) -> None:
    forget(half / "state", profile, SUBJECT, None)
    assert replay(profile, events, half / "out", state=half / "state").finished
    made = decisions(half / "out")
    assert {one["transaction_id"] for one in made} == {one["transaction_id"] for one in decisions(whole)}

    def others(out: Path) -> list[dict[str, Any]]:
        return [one for one in decisions(out) if one["account_id"] != SUBJECT]

    for one, expected in zip(others(half / "out"), others(whole), strict=True):
        assert one["transaction_id"] == expected["transaction_id"]
        for name, value in expected["features"].items():
            if name.startswith(("merchant.fraud", "merchant.label")):
                continue  # labels of the forgotten payments no longer reach the merchant
            # An account that pays again after it was forgotten counts as another one.
            again = name.endswith("accounts") or "distinct_account_id" in name
            assert one["features"][name] == value or (again and one["features"][name] == value + 1), name


def test_a_running_flow_is_not_forgotten_in(half: Path, profile: Path) -> None:
    with StateHome(half / "state" / "shards") as home:
        home.open_as_they_are(shard_names_in(half / "state" / "shards"))
        with pytest.raises(StateLockedError):
            forget(half / "state", profile, SUBJECT, None)


def test_another_profile_is_refused(half: Path, tmp_path: Path) -> None:
    other = write_profile(tmp_path / "other")
    features = (other / "features.toml").read_text()
    (other / "features.toml").write_text(features.replace('id = "test-1"', 'id = "test-2"'))
    with pytest.raises(ConfigError, match="the state was made with features"):
        forget(half / "state", other, SUBJECT, None)
    with pytest.raises(ConfigError, match="the state was made with features"):
        get_entity(half / "state", other, "account", [SUBJECT], related=False)


def test_where_no_key_holds_the_account_the_published_decisions_are_asked_for(tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    profile.mkdir()
    (profile / "features.toml").write_text(
        'id = "m"\nbase_currency = "EUR"\n[entities.merchant]\nkey = "merchant_id"\nwindows = ["1h"]\n'
        'amount = ["count"]\ndistinct = { account_id = ["1h"] }\n'
    )
    events = tmp_path / "events"
    scattered(write_events(events, payments=300, hours=3, seed=3))
    for name in ("outcomes", "device_events", "identity_events"):
        (events / f"{name}.jsonl").unlink()
    out, state = tmp_path / "out", tmp_path / "state"
    replay(profile, events, out, state=state, batch=20, stop_after=10)
    with pytest.raises(ConfigError, match="give the published decisions too"):
        forget(state, profile, SUBJECT, None)
    mine = {one["transaction_id"] for one in decisions(out) if one["account_id"] == SUBJECT}
    assert mine
    found = forget(state, profile, SUBJECT, out / "decisions.jsonl", CLEAR)
    assert found["payments"] == len(mine)
    needles = [*hashes_of(SUBJECT), *(name.encode() for name in mine)]
    assert mentions(state, needles) == []


def test_forget_says_what_it_did(half: Path, profile: Path) -> None:
    told = run("forget", "--state", str(half / "state"), "--profile", str(profile), "--account", SUBJECT)
    assert told.returncode == 0, told.stderr
    assert "backups and published records still hold the account" in told.stdout


def test_what_is_no_state_folder_is_refused(tmp_path: Path) -> None:
    for command in (["inspect"], ["verify"], ["backup", "--to", f"file://{tmp_path}/b"]):
        refused = run(*command, "--state", str(tmp_path))
        assert refused.returncode == 2
        assert "expected a folder that `weir replay --state` or `weir decide` made" in refused.stderr


def test_a_manifest_tells_what_the_operator_needs(half: Path) -> None:
    make_backup(half / "state", f"file://{half}/b")
    facts = load_manifest(ObjectStore(f"file://{half}/b"), None).facts
    known = read_recovery(recovery_file(half / "state"))
    assert facts["epoch"] == known.epoch
    assert facts["offsets"] == known.offsets
    assert facts["state"] == orjson.loads((half / "state" / "manifest.json").read_bytes())


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) == before
