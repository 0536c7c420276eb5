"""Compares what a replay published with what the uninterrupted one did: lost, twice, contradicted, torn, withdrawn."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from flows.publish import DECISIONS, LABELLED_OUTCOMES, SLOTS, identity_of

Identity = tuple[str, bytes, bool]


@dataclass(frozen=True, slots=True)
class Published:
    """Everything that stands in the outputs.

    Attributes:
        identities: How often each record stands there: slot, identity, whether it answers a retry.
        contradicted: Transactions of which two published decisions differ in content.
        torn: Lines that are no record, or have no end.
        unlike: Labelled outcomes whose features or score are not those of the decision published.
        digests: Of each output file.
    """

    identities: Counter[Identity]
    contradicted: frozenset[str]
    torn: int
    unlike: int
    digests: dict[str, str]


@dataclass(slots=True)
class Verdict:
    """What is wrong with a replay's outputs; all zero and equal when nothing is.

    Attributes:
        lost: Records of the uninterrupted run that are missing.
        twice: Records that stand there more often than in the uninterrupted run.
        contradicted: Transactions of which two published decisions differ.
        torn: Lines that are no record.
        withdrawn: Outputs of which something that stood there at a kill was changed or removed later.
        unlike: Labelled outcomes that are not about the decision published.
        bytes_equal: The outputs are those of the uninterrupted run, to the byte.
    """

    lost: int = 0
    twice: int = 0
    contradicted: int = 0
    torn: int = 0
    withdrawn: int = 0
    unlike: int = 0
    bytes_equal: bool = True


def read_published(out: Path) -> Published:
    """Read the outputs of a run; a missing file is an empty one."""
    identities: Counter[Identity] = Counter()
    contents: dict[str, tuple[Any, Any]] = {}
    contradicted: set[str] = set()
    digests: dict[str, str] = {}
    torn = unlike = 0
    for slot in SLOTS_DECISIONS_FIRST:
        path = out / f"{slot}.jsonl"
        data = path.read_bytes() if path.exists() else b""
        digests[slot] = hashlib.sha256(data).hexdigest()
        for line in data.splitlines(keepends=True):
            try:
                record = orjson.loads(line)
                duplicate = bool(record.pop("duplicate", False))
                identity = identity_of(slot, record)
            except (orjson.JSONDecodeError, KeyError, AttributeError):
                torn += 1
                continue
            torn += not line.endswith(b"\n")
            identities[slot, identity, duplicate] += 1
            if slot == DECISIONS:
                content = hashlib.sha256(orjson.dumps(record)).digest()
                scored = hashlib.sha256(orjson.dumps([record["features"], record["score"]])).digest()
                told = contents.setdefault(record["transaction_id"], (content, scored))
                if told[0] != content:
                    contradicted.add(record["transaction_id"])
            elif slot == LABELLED_OUTCOMES:
                scored = hashlib.sha256(orjson.dumps([record["features"], record["score"]])).digest()
                unlike += contents.get(record["transaction_id"], (b"", b""))[1] != scored
    return Published(identities, frozenset(contradicted), torn, unlike, digests)


SLOTS_DECISIONS_FIRST = sorted(SLOTS, key=lambda slot: slot != DECISIONS)


def compare(published: Published, reference: Published, *, at_end: bool) -> Verdict:
    """Judge outputs by those of the uninterrupted run; before the end, what is missing may still come."""
    lost = reference.identities - published.identities if at_end else Counter[Identity]()
    return Verdict(
        lost=lost.total(),
        twice=(published.identities - reference.identities).total(),
        contradicted=len(published.contradicted),
        torn=published.torn if at_end else 0,
        unlike=published.unlike,
        bytes_equal=published.digests == reference.digests if at_end else True,
    )


@dataclass(slots=True)
class Readers:
    """Remembers what readers of the outputs have seen at each kill, whole lines only: none of it may change.

    Attributes:
        seen: Of each output, the lengths read and the digests of what stood there.
    """

    seen: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)

    def look(self, out: Path) -> None:
        """Read all whole lines that stand there now."""
        for slot in SLOTS:
            path = out / f"{slot}.jsonl"
            if path.exists():
                data = path.read_bytes()
                whole = data[: data.rfind(b"\n") + 1]
                self.seen.setdefault(slot, []).append((len(whole), hashlib.sha256(whole).digest()))

    def forget(self) -> None:
        """Outputs were restored from a copy, by hand: what readers have seen since is not promised."""
        self.seen.clear()

    def withdrawn(self, out: Path) -> int:
        """Outputs that do not begin with everything that was read of them."""
        changed = 0
        for slot, looks in self.seen.items():
            data = (out / f"{slot}.jsonl").read_bytes()
            changed += any(
                len(data) < length or hashlib.sha256(data[:length]).digest() != digest for length, digest in looks
            )
        return changed
