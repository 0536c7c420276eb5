"""The state of a replay in canonical form, so that two runs of the same input can be compared record by record.

    python -m load_tests.canonical_state STATE OUT --profile DIR [--other STATE OUT] [--in-order]

Rows and fixes are sorted by event time and content, sums are integers, wherever a record stands (head or chunk). Left
out of every comparison:

- how far a sweep or an expiry scan has come (`cursor`): it follows commits, not events;
- ledger entries beyond the span in which a retry is answered: they are deleted some per commit;
- panes: another view of rows that are kept; campaign traffic is too small to have any, and a run that has is refused.

And of a comparison of runs that did not keep the order of arrival (several processes), since two payments may meet in
one order at their card and in the other at their merchant:

- scored values, contributions and score of a payment that waits for its label: the payment itself is compared;
- weights of the model, a sum in order of arrival: labels and frauds learned are compared;
- since when a shard's windows are covered: the first event to arrive;
- offsets in the ledger: instead, that its decision stands where the ledger says is checked.

Nothing of an entity may expire within the traffic, as in the campaign's profile: when it does depends on that
order too.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from flows.profile import Profile, load_profile
from flows.publish import DAY_US, DECISIONS, decision_identity
from operators.features import EntitySpec
from operators.identity import PREFIX as IDENTITY_PREFIX
from operators.model_state import unpack
from operators.reputation import PREFIX as REPUTATION_PREFIX
from operators.travel import PREFIX as TRAVEL_PREFIX
from operators.window_plan import Limits, Plan
from operators.window_record import (
    AT_FIRST_SEEN,
    AT_LAST_ANY,
    AT_LAST_PAYMENT,
    HEAD_WORDS,
    INDEXED,
    META_KEY,
    Index,
    Meta,
    chunk_key,
    index_key,
)
from state.records import read_shard, shard_directories

Canonical = dict[tuple[str, ...], Any]
"""(step, part, key) → value; equal runs give equal mappings."""

_FIX: Final = struct.Struct("<qiiI")
_REPUTATION: Final = struct.Struct("<BBBBHHqqq")


class CanonicalError(Exception):
    """A record that cannot be brought into canonical form."""


def canonical_state(state: Path, out: Path, profile: Profile, *, in_order: bool) -> Canonical:
    """All steps of all shards of a finished replay, decoded.

    Args:
        state: The replay's state folder.
        out: Its output folder, which the ledger points into.
        profile: What it was replayed through.
        in_order: Both runs to be compared kept the order of arrival: nothing that depends on it is left out.

    Raises:
        CanonicalError: A record is of no kind known here.
    """
    entities = {spec.name: spec for spec in profile.features.entities}
    found: Canonical = {}
    for directory in shard_directories(state):
        for step, kept in read_shard(directory).items():
            if step == "seen":
                _seen(found, kept.records)
            elif step == "decide":
                _decide(found, kept.records, in_order=in_order)
            elif step == "ledger":
                _ledger(found, directory.name, kept.records, out, profile, in_order=in_order)
            elif step in entities:
                _entity(found, directory.name, entities[step], kept.records, profile, in_order=in_order)
            else:
                message = f"{directory}: step {step!r} has no canonical form; add one"
                raise CanonicalError(message)
    return found


def differences(one: Canonical, other: Canonical) -> list[str]:
    """What differs, a line each; empty when the states are equal."""
    told = []
    for key in sorted({*one, *other}):
        left, right = one.get(key, "nothing"), other.get(key, "nothing")
        if left != right:
            told.append(f"{' '.join(key)}: {left!r:.300} | {right!r:.300}")
    return told


def _seen(found: Canonical, records: dict[bytes, bytes]) -> None:
    for key, value in records.items():
        found["seen", key[:1].decode(), key[1:].hex()] = msgspec.msgpack.decode(value) if key[:1] in b"so" else value


def _decide(found: Canonical, records: dict[bytes, bytes], *, in_order: bool) -> None:
    for key, value in records.items():
        part = key[:1]
        if part == b"M":
            header = unpack(value)[0]
            found["decide", "model"] = value if in_order else (header.labels, header.frauds, header.model_version)
        elif part == b"p":
            found["decide", "waits for its label", key[1:].hex()] = value if in_order else True
        else:
            found["decide", part.decode(), key[1:].hex()] = value


def _ledger(
    found: Canonical, shard: str, records: dict[bytes, bytes], out: Path, profile: Profile, *, in_order: bool
) -> None:
    days = [int.from_bytes(key[1:5], "big") for key in records if key[:1] == b"d"]
    learns = (out / "labelled_outcomes.jsonl").stat().st_size > 0
    span_us = profile.seen_config(outcomes=learns).keep_us
    oldest = (max(days, default=0) * DAY_US - span_us) // DAY_US
    published = (out / f"{DECISIONS}.jsonl").read_bytes()
    for key, value in records.items():
        if key[:1] != b"d":
            found[shard, key[:1].decode(), key[1:].hex()] = value
            continue
        if int.from_bytes(key[1:5], "big") < oldest:
            continue
        offset, length = int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")
        found[shard, "d", key[1:].hex()] = (
            offset if in_order else None,
            _stands_at(published[offset : offset + length], key[5:]),
        )


def _stands_at(line: bytes, identity: bytes) -> bool:
    """Whether `line` is the decision of that identity."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return not record["duplicate"] and decision_identity(record["transaction_id"]) == identity


def _entity(
    found: Canonical, shard: str, spec: EntitySpec, records: dict[bytes, bytes], profile: Profile, *, in_order: bool
) -> None:
    plan = Plan(profile.features, spec, Limits())
    parts: dict[bytes, Callable[[bytes], Any]] = {
        TRAVEL_PREFIX: _fixes,
        REPUTATION_PREFIX: _device,
        IDENTITY_PREFIX: _timelines,
    }
    for key, value in records.items():
        part = key[:1]
        if key == META_KEY:
            meta = Meta.decode(value, f"{spec.name}/{shard}")
            covered = meta.covered if in_order else sorted(meta.covered)
            found[spec.name, "clock", shard] = (meta.clock, covered, meta.shape, meta.feature_set, meta.hash)
        elif key[:2] == b"vh":
            found[spec.name, "windows", key[2:].hex()] = _windows(records, key[2:], value, plan, f"{spec.name}/{shard}")
        elif key[:2] in (b"vx", b"vc"):
            continue  # read with its head
        elif key in parts:
            found[spec.name, "clock of " + key.decode(), shard] = value
        elif part in parts:
            found[spec.name, key[:2].decode("latin-1"), key[1:].hex()] = parts[part](value)
        else:
            message = f"shard {spec.name}/{shard}: a record with key {key[:2]!r} has no canonical form; add one"
            raise CanonicalError(message)


def _windows(records: dict[bytes, bytes], key: bytes, head: bytes, plan: Plan, where: str) -> Any:
    """(newest of anything, first payment, last payment, rows of each series sorted)."""
    words: list[int] = np.frombuffer(head, "<i8").tolist()
    widths: list[int] = plan.series[:, 0].tolist()
    counts = words[HEAD_WORDS : HEAD_WORDS + len(widths)]
    at = HEAD_WORDS + len(widths)
    rows: list[list[tuple[int, ...]]] = []
    for width, count in zip(widths, counts, strict=True):
        rows.append(_rows(words[at : at + width * count], width))
        at += width * count
    if words[0] & INDEXED:
        index = Index.decode(records[index_key(key)], len(widths), len(plan.windows), where)
        for series, chunks in enumerate(index.chunks):
            for chunk in chunks:
                sealed = np.frombuffer(records[chunk_key(key, series, chunk.id)], "<i8").tolist()
                rows[series] += _rows(sealed, widths[series])
    return (words[AT_LAST_ANY], words[AT_FIRST_SEEN], words[AT_LAST_PAYMENT], [sorted(series) for series in rows])


def _rows(words: list[int], width: int) -> list[tuple[int, ...]]:
    return [tuple(words[at : at + width]) for at in range(0, len(words), width)]


def _fixes(record: bytes) -> Any:
    return record[0], sorted(_FIX.iter_unpack(record[1:]))


def _device(record: bytes) -> Any:
    """Head, both timelines sorted, (hash, first time) of each account sorted."""
    head = _REPUTATION.unpack_from(record)
    blocked, fingerprints, accounts = head[2:5]
    lines = blocked + fingerprints
    tail = struct.unpack_from(f"<{lines + accounts}q{accounts}Q", record, _REPUTATION.size)
    known = sorted(zip(tail[lines + accounts :], tail[lines : lines + accounts], strict=True))
    return head, sorted(tail[:blocked]), sorted(tail[blocked:lines]), known


def _timelines(record: bytes) -> Any:
    layout, *counts = struct.unpack_from("<8B", record)
    entries = struct.unpack_from(f"<{sum(counts)}q", record, 8)
    lines = []
    at = 0
    for count in counts:
        lines.append(sorted(entries[at : at + count]))
        at += count
    return layout, lines


def main(arguments: list[str] | None = None) -> int:
    """Compare two states, or tell how many records one has; returns 1 when they differ."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.canonical_state",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("state", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--other", type=Path, nargs=2, metavar=("STATE", "OUT"))
    parser.add_argument("--in-order", action="store_true", help="both runs had one process")
    given = parser.parse_args(arguments)
    profile = load_profile(given.profile)
    one = canonical_state(given.state, given.out, profile, in_order=given.in_order)
    sys.stdout.write(f"{len(one):,} records\n")
    if given.other is None:
        return 0
    other = canonical_state(given.other[0], given.other[1], profile, in_order=given.in_order)
    told = differences(one, other)
    sys.stdout.write(("\n".join(told[:50]) or "equal") + "\n")
    return 1 if told else 0


if __name__ == "__main__":
    raise SystemExit(main())
