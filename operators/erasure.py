"""What of an account is in the records of every step, and what is left of them once it is forgotten.

The account's own are deleted: records of entities whose key names it or one of its cards, alone or in a pair; every
payment of it in `seen`, in the decisions that await a label (of a learner too), in the ledger. A card is the
account's own when all its remembered payments are.

Others' records that mention it keep what they count and lose who it was: where a device or a merchant tells accounts
apart by hash, a random number takes the place of this one's, the same within one entity, so that distinct counts stay
right; where a transfer of somebody else names it as the payee, the name is taken out.

HyperLogLog registers of busy windows and the weights of a model cannot be told apart by person, and stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import xxhash

from operators.describe import LABEL_JOIN, LEDGER, sort_of
from operators.describe_windows import ReadRecord, ShardWindows
from operators.features import FeatureSet, split_key
from operators.label_join import kept_of, without_payee
from operators.reputation import replace_account
from operators.seen import keys_of_seen, without_keys
from operators.window_record import PAYMENTS

PERSON: Final = ("account_id", "counterparty_id")
"""Fields that hold an account's id."""
CARD: Final = "card_id"

READ_FROM: Final = ("seen", "decide", LABEL_JOIN)
"""Steps whose records say whose a payment is."""
_SEPARATOR: Final = b"\x1f"

Change = tuple[bytes, bytes | None]


@dataclass(slots=True)
class Subject:
    """An account and what was found to be its own.

    Attributes:
        account: Its id.
        transactions: Ids of its payments.
        cards: Cards that only it paid with.
    """

    account: str
    transactions: set[bytes] = field(default_factory=set)
    cards: set[str] = field(default_factory=set)


class Finder:
    """Reads the records of READ_FROM and finds an account's payments and cards; two passes."""

    def __init__(self, feature_set: FeatureSet, account: str) -> None:
        self._fields = [spec.key for spec in feature_set.entities]
        self._foreign_cards: set[str] = set()
        self.subject = Subject(account)

    @property
    def knows_accounts(self) -> bool:
        """Whether a remembered payment says whose it is: whether some entity's key holds the account."""
        return any("account_id" in fields for fields in self._fields)

    def look(self, step: str, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Note what the records say of the account."""
        subject = self.subject
        for key, value in records:
            if step == "seen" and key[:1] == b"s":
                held = self._values(keys_of_seen(value))
                if held.get("account_id") == subject.account:
                    subject.transactions.add(key[1:])
                    if CARD in held:
                        subject.cards.add(held[CARD])
                elif CARD in held:
                    self._foreign_cards.add(held[CARD])
            elif step in ("decide", LABEL_JOIN) and key[:1] == b"p":
                decision = _decision(value) if step == "decide" else kept_of(value)
                card = decision.get("card_id")
                if decision.get("account_id") == subject.account:
                    subject.transactions.add(key[9:])
                    if card is not None:
                        subject.cards.add(card)
                elif card is not None:
                    self._foreign_cards.add(card)

    def found(self) -> Subject:
        """The account, its payments, and the cards that nobody else paid with."""
        self.subject.cards -= self._foreign_cards
        return self.subject

    def _values(self, keys: list[bytes | None]) -> dict[str, str]:
        held: dict[str, str] = {}
        for fields, key in zip(self._fields, keys, strict=True):
            if key is not None:
                held.update(zip(fields, _parts(fields, key), strict=True))
        return held


class Forgetting:
    """Says what becomes of each record."""

    def __init__(self, feature_set: FeatureSet, subject: Subject, secret: bytes) -> None:
        """Make it.

        Args:
            feature_set: Of the state's profile.
            subject: Whom to forget.
            secret: Random, new for every erasure and thrown away after it.
        """
        self._subject = subject
        self._secret = secret
        self._feature_set = feature_set
        self._specs = {spec.name: spec for spec in feature_set.entities}
        self._fields = {spec.name: spec.key for spec in feature_set.entities}
        self._windows: ShardWindows | None = None
        named = [(name, subject.account) for name in PERSON] + [(CARD, card) for card in subject.cards]
        self._hashes = [(name, _signed(value)) for name, value in named]

    def enter(self, shard: str, step: str, read: ReadRecord) -> None:
        """The records that follow are those of this step in this shard, which `read` gives by key.

        Raises:
            StateLayoutError: They are of another layout.
        """
        spec = self._specs.get(step)
        where = f"{step}/{shard}"
        self._windows = None if spec is None else ShardWindows(self._feature_set, spec, read, where)

    def change(self, step: str, key: bytes, value: bytes) -> Change | None:
        """(key, None) to delete, (key, value) to replace, None to leave the record as it is."""
        if step in self._fields:
            return self._of_entity(step, key, value)
        sort = sort_of(step, key, value)
        entity = sort.entity
        if step == LEDGER and entity is not None:
            entity = entity.partition(_SEPARATOR)[0]  # a label's name goes on with its source and time
        if entity in self._subject.transactions:
            return key, None
        left: bytes | None = None
        if step == "seen" and key[:1] == b"s":
            fields = list(self._fields.values())
            left = without_keys(value, lambda index, name: self._names(fields[index], name))
        elif step == "decide" and key[:1] == b"p":
            left = self._without_payee(value)
        elif step == LABEL_JOIN and key[:1] == b"p":
            left = without_payee(value, self._subject.account)
        return None if left is None else (key, left)

    def _of_entity(self, step: str, key: bytes, value: bytes) -> Change | None:
        sort = sort_of(step, key, value)
        if sort.entity is None:
            return None
        if self._names(self._fields[step], sort.entity):
            return key, None
        left: bytes | None = None
        windows = self._windows
        if windows is not None and sort.name in {"entities", "chunks"}:
            series = key[-5] if sort.name == "chunks" else None
            if series in (None, PAYMENTS):
                strangers = {(name, old): self._stranger(step, sort.entity, old) for name, old in self._hashes}
                view = windows.of_head(value) if series is None else windows.of_entity(sort.entity)
                left = view.replace_hashes(value, series, strangers)
        elif sort.name == "devices":
            stranger = self._stranger(step, sort.entity, 0) & (1 << 64) - 1
            left = replace_account(value, self._subject.account, stranger)
        return None if left is None else (key, left)

    def _names(self, fields: tuple[str, ...], key: bytes) -> bool:
        """Whether an entity's key names the account or one of its cards."""
        parts = zip(fields, _parts(fields, key), strict=True)
        return any(
            (name in PERSON and value == self._subject.account) or (name == CARD and value in self._subject.cards)
            for name, value in parts
        )

    def _without_payee(self, value: bytes) -> bytes | None:
        values, decision = msgspec.msgpack.decode(value)
        if decision.get("counterparty_id") != self._subject.account:
            return None
        return msgspec.msgpack.encode([values, decision | {"counterparty_id": None}])

    def _stranger(self, step: str, entity: bytes, old: int) -> int:
        """A random number, never 0, the same for all records of one entity and unlike that of any other."""
        seed = step.encode() + b"\0" + entity + old.to_bytes(8, "big", signed=True)
        digest = hashlib.blake2b(seed, key=self._secret, digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True) or 1


def order_of_steps(steps: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(shard, step), those last from which the account's payments are found: killed in between, it can be run again."""
    last = {"decide": 1, LABEL_JOIN: 1, "seen": 2}
    return sorted(steps, key=lambda one: (last.get(one[1], 0), one[1] != LEDGER, one))


def _parts(fields: tuple[str, ...], key: bytes) -> list[str]:
    return split_key(key) if len(fields) > 1 else [key.decode(errors="replace")]


def _decision(value: bytes) -> dict[str, Any]:
    decision: dict[str, Any] = msgspec.msgpack.decode(value)[1]
    return decision


def _signed(value: str) -> int:
    """The hash of a distinct value as a row holds it."""
    digest = xxhash.xxh3_64_intdigest(value.encode())
    return (digest if digest < 1 << 63 else digest - (1 << 64)) or 1
