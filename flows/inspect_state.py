"""Looks into a state directory for a person: sizes and counts, one entity's records, and an account forgotten."""

from __future__ import annotations

import json
import secrets
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from flows.backup import MANIFEST, SHARDS, check_state, readable, state_keys
from flows.profile import Profile, load_profile
from flows.recovery import read_recovery, recovery_file
from operators.describe import LABEL_JOIN, LEDGER, EntityRecords, describe_record, sort_of
from operators.erasure import READ_FROM, Finder, Forgetting, Subject, order_of_steps
from operators.features import split_key
from operators.label_join import COUNTS, counts_after
from operators.record_formats import format_of
from schemas.errors import ConfigError
from schemas.pan import looks_like_pan
from schemas.times import format_rfc3339_us
from state.erase import Eraser
from state.options import StateOptions
from state.raw import RawShard, shard_names_in
from state.shards import shard_names, shard_of

_WRITTEN_AT_ONCE: Final = 1_000
_RELATED: Final = 20
"""Records told with --related of each other step in each shard, the first by key; more would be a dump."""


def inspect(state: Path) -> dict[str, Any]:
    """Sizes, counts and versions of every step of every shard; reads every record.

    Raises:
        ConfigError: `state` is none.
        StateError: A shard cannot be read.
    """
    manifest = _manifest(state)
    with readable(state) as (directory, known):
        shards = []
        for name in shard_names_in(directory):
            with RawShard(directory / name, state_keys(), format_of) as raw:
                steps = [_step(raw, step, known.versions.get((name, step))) for step in raw.steps]
                shards.append({"shard": name, "disk_bytes": raw.disk_bytes(), "steps": steps})
    return {
        "epoch": known.epoch,
        "features": manifest["feature_sets"][-1]["hash"],
        "shard_count": manifest.get("shards"),
        "disk_bytes": sum(one["disk_bytes"] for one in shards),
        "offsets": known.offsets,
        "shards": shards,
    }


def _step(raw: RawShard, step: str, resumes_at: int | None) -> dict[str, Any]:
    kinds: dict[str, int] = {}
    size = 0
    oldest_us: int | None = None
    for key, value in raw.records(step):
        sort = sort_of(step, key, value)
        kinds[sort.name] = kinds.get(sort.name, 0) + 1
        size += len(key) + len(value)
        if sort.time_us is not None and (oldest_us is None or sort.time_us < oldest_us):
            oldest_us = sort.time_us
    version, oldest = raw.version(step)
    return {
        "step": step,
        "version": version,
        "oldest_version": oldest,
        "resumes_at": resumes_at,
        "records": kinds,
        "record_bytes": size,
        "before_images": sum(1 for _ in raw.before_images(step)),
        "oldest_record": None if oldest_us is None else format_rfc3339_us(oldest_us),
    }


def get_entity(state: Path, profile: Path, entity: str, values: list[str], *, related: bool) -> dict[str, Any]:
    """Everything kept of one entity, decoded; with `related`, what other steps say of it too, which reads them all.

    Raises:
        ConfigError: The profile is another one, there is no such entity, or a value looks like a card number.
        StateError: A shard cannot be read.
    """
    loaded = _profile(state, profile)
    spec = next((one for one in loaded.features.entities if one.name == entity), None)
    if spec is None or len(values) != len(spec.key):
        names = ", ".join(f"{one.name} ({' '.join(one.key)})" for one in loaded.features.entities)
        msg = f"--entity {entity!r} with {len(values)} --key: expected an entity and its fields out of {names}"
        raise ConfigError(msg)
    if any(looks_like_pan(value) for value in values):
        msg = "--key: it looks like a card number, which state never holds; give the token, a decision's card_id"
        raise ConfigError(msg)
    key = loaded.features.key_of(values)
    count = int(_manifest(state)["shards"])
    shard = shard_names(count)[shard_of(key, count)]
    told: dict[str, Any] = {"entity": entity, "key": values, "shard": shard, "records": {}}
    with readable(state) as (directory, _):
        if shard in shard_names_in(directory):
            with RawShard(directory / shard, state_keys(), format_of) as raw:
                told["version"] = raw.version(entity)[0] if entity in raw.steps else 0
                if entity in raw.steps:
                    reader = EntityRecords(loaded.features, spec, partial(raw.get, entity), shard)
                    for at in reader.keys_of(key):
                        value = raw.get(entity, at)
                        if value is not None:
                            told["records"][sort_of(entity, at, value).name] = reader.describe(at, value)
        if related:
            told["related"] = _related(directory, loaded, entity, values)
    return told


def _related(directory: Path, profile: Profile, entity: str, values: list[str]) -> list[dict[str, Any]]:
    """Records of other steps that mention the entity's values: pairs, payments seen, decisions awaiting a label."""
    found: list[dict[str, Any]] = []
    specs = {spec.name: spec for spec in profile.features.entities}
    encoded = [value.encode() for value in values]
    for name in shard_names_in(directory):
        with RawShard(directory / name, state_keys(), format_of) as raw:
            for step in raw.steps:
                if step in {entity, LEDGER}:
                    continue
                reader = (
                    EntityRecords(profile.features, specs[step], partial(raw.get, step), name)
                    if step in specs
                    else None
                )
                most = len(found) + _RELATED
                for key, value in raw.records(step):
                    sort = sort_of(step, key, value)
                    if reader is None:
                        mentioned = sort.time_us is not None and all(one in value for one in encoded)
                    else:
                        mentioned = sort.entity is not None and set(values) <= set(split_key(sort.entity))
                    if not mentioned or sort.entity is None or not value:
                        continue
                    told = reader.describe(key, value) if reader is not None else describe_record(step, key, value)
                    of = split_key(sort.entity)
                    found.append({"step": step, "shard": name, "sort": sort.name, "of": of, **told})
                    if len(found) == most:
                        break
    return found


def forget(
    state: Path, profile: Path, account: str, decisions: Path | None, options: StateOptions | None = None
) -> dict[str, int]:
    """Take an account out of a stopped flow's state; see operators/erasure.py and state/erase.py.

    Args:
        state: The state directory; no flow may run on it.
        profile: Its profile.
        account: The account's id.
        decisions: Published decisions, to find the account's payments where the state does not say whose they are.
        options: Bounds of memory.

    Returns:
        payments, cards, records_deleted, records_changed.

    Raises:
        ConfigError: The profile is another one, or the state does not say whose a payment is and `decisions` is None.
        StateLockedError: A flow runs.
        StateError: A shard cannot be read or written.
    """
    check_state(state)
    loaded = _profile(state, profile)
    finder = Finder(loaded.features, account)
    known = read_recovery(recovery_file(state))
    counts = {"records_deleted": 0, "records_changed": 0}
    with Eraser(state / SHARDS, known.versions, options, state_keys(), format_of) as eraser:
        steps = order_of_steps(eraser.steps())
        learner = any(step == LABEL_JOIN for _, step in steps)
        if not (finder.knows_accounts or learner) and decisions is None:
            msg = (
                f"--profile {profile}: no entity has account_id in its key, so the state does not say which payments "
                "are the account's; give the published decisions too (--decisions out/decisions.jsonl)"
            )
            raise ConfigError(msg)
        for shard, step in steps:
            if step in READ_FROM:
                finder.look(step, eraser.records(shard, step))
        subject = finder.found()
        if decisions is not None:
            _add_published(subject, decisions)
        forgetting = Forgetting(loaded.features, subject, secrets.token_bytes(32))
        for shard, step in steps:
            changes: list[tuple[bytes, bytes | None]] = []
            waited: list[tuple[bytes, bytes, bytes | None]] = []
            forgetting.enter(shard, step, partial(eraser.get, shard, step))
            for key, value in eraser.records(shard, step):
                change = forgetting.change(step, key, value)
                if change is not None:
                    changes.append(change)
                    counts["records_deleted" if change[1] is None else "records_changed"] += 1
                    if step == LABEL_JOIN:
                        waited.append((key, value, change[1]))
            counted = eraser.get(shard, step, COUNTS) if waited else None
            if counted is not None:
                changes.append((COUNTS, counts_after(counted, waited)))
            for start in range(0, len(changes), _WRITTEN_AT_ONCE):
                eraser.write(shard, step, changes[start : start + _WRITTEN_AT_ONCE])
        eraser.finish()
    return {"payments": len(subject.transactions), "cards": len(subject.cards), **counts}


def _add_published(subject: Subject, decisions: Path) -> None:
    with decisions.open("rb") as lines:
        for line in lines:
            if subject.account.encode() in line and line.endswith(b"\n"):
                decision = orjson.loads(line)
                if decision["account_id"] == subject.account:
                    subject.transactions.add(decision["transaction_id"].encode())


def _manifest(state: Path) -> dict[str, Any]:
    check_state(state)
    found: dict[str, Any] = json.loads((state / MANIFEST).read_text())
    return found


def _profile(state: Path, profile: Path) -> Profile:
    """The profile, if it is the state's: another one would read its records wrongly.

    Raises:
        ConfigError: It is not.
    """
    loaded = load_profile(profile)
    expected = _manifest(state)["feature_sets"][-1]["hash"]
    if loaded.features.hash != expected:
        msg = f"--profile {profile}: the state was made with features {expected}, found {loaded.features.hash}"
        raise ConfigError(msg)
    return loaded
