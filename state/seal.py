"""Encryption of a shard's records at rest: values by AES-256-GCM, what identifies somebody in a key by AES-SIV.

Encrypted is what reaches RocksDB; the record cache holds records as steps wrote them. Integers are big-endian.

    value on disk   u8 format (1) | u32 session | u64 counter | ciphertext | 16 bytes tag
        AES-256-GCM under the session's key; nonce: 4 zero bytes and the counter; additional data: step 00 key on disk,
        so that a record moved to another key or step does not open. A before-image record is one such value.
    key on disk     clear bytes | AES-256-SIV of the rest (RFC 5297: deterministic, 16 bytes longer; additional data:
        step 00 clear bytes). How many bytes are clear: `state.record_format`. A key that is all clear stays as it is.
    default family  b"seal"                 → MessagePack map: key id → name key (64 bytes), wrapped by AES-256-GCM:
                                              12 bytes nonce | ciphertext | tag
                    b"session" 00 u32       → MessagePack array: key id, 16 bytes salt

A session is one opening of the shard: its key is HKDF(active key, salt), so a counter serves as nonce and never repeats
under one key, whatever is killed or restored. (Random 96-bit nonces under one key for years would: NIST SP 800-38D
allows 2^32 records, less than a day of a busy flow.) Records name their session, the session names its key: so keys
rotate, and a record is read with the key under which it was written. The name key is random, made with the shard and
the same for its life, for a key's ciphertext must be found again.

Scans: records come in the order of their keys on disk. Within equal clear bytes that is a fixed order, only not that
of the true keys, and nobody who scans a prefix can tell.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV

from schemas.errors import SecretError, StateError, StateLayoutError
from state.keys import StateKeys
from state.layout import SEAL_KEY, session_key, session_range
from state.record_format import RecordFormat

FORMAT: Final = 1
_HEAD: Final = struct.Struct(">BIQ")
_COUNTER: Final = struct.Struct(">4xQ")
_TAG_BYTES: Final = 16
_NAME_KEY_BYTES: Final = 64
_NONCE_BYTES: Final = 12
_WRAP: Final = b"weir/state/wrap/1"
_SESSION: Final = b"weir/state/session/1"

OVERHEAD_BYTES: Final = _HEAD.size + _TAG_BYTES


class ShardSeal:
    """The keys of one open shard.

    Attributes:
        session: Number of this opening.
    """

    __slots__ = ("_active", "_ciphers", "_counter", "_name", "_names", "_sessions", "keys", "session")

    def __init__(self, name: str, keys: StateKeys, names: AESSIV, sessions: dict[int, tuple[str, bytes]]) -> None:
        self._name = name
        self.keys = keys
        self._names = names
        self._sessions = sessions
        self._ciphers: dict[int, AESGCM] = {}
        self.session = max(sessions)
        self._counter = 0
        self._active = self._cipher(self.session)

    def seal(self, place: bytes, value: bytes) -> bytes:
        """`value` as it goes to disk at `place`; the shard's lock must be held, or nobody else write."""
        counter = self._counter
        self._counter = counter + 1
        return _HEAD.pack(FORMAT, self.session, counter) + self._active.encrypt(_COUNTER.pack(counter), value, place)

    def unseal(self, place: bytes, record: bytes) -> bytes:
        """What was sealed at `place`.

        Raises:
            StateError: The record was altered, moved or cut off.
        """
        try:
            form, session, counter = _HEAD.unpack_from(record)
            if form == FORMAT:
                cipher = self._ciphers.get(session) or self._cipher(session)
                return cipher.decrypt(_COUNTER.pack(counter), record[_HEAD.size :], place)
        except (struct.error, InvalidTag, KeyError) as error:
            msg = (
                f"shard {self._name}: an encrypted record does not open ({type(error).__name__}): altered, cut off or "
                "not written here; restore a backup (docs/runbooks/corrupt-shard.md)"
            )
            raise StateError(msg) from error
        msg = (
            f"shard {self._name}: found an encrypted record of format {form}, this program reads {FORMAT}; start the "
            "release that wrote it"
        )
        raise StateLayoutError(msg)

    def key_of(self, record: bytes) -> str:
        """Id of the key under which a record was written."""
        return self._sessions[_HEAD.unpack_from(record)[1]][0]

    def hide(self, place: bytes, rest: bytes) -> bytes:
        """Deterministic ciphertext of the identifying part of a key."""
        return self._names.encrypt(rest, [place])

    def show(self, place: bytes, hidden: bytes) -> bytes:
        """What `hide` was given.

        Raises:
            StateError: The key was altered.
        """
        try:
            return self._names.decrypt(hidden, [place])
        except InvalidTag as error:
            msg = (
                f"shard {self._name}: an encrypted key does not open: altered or not written here; restore a "
                "backup (docs/runbooks/corrupt-shard.md)"
            )
            raise StateError(msg) from error

    def forget_other_keys(self, db: Any) -> None:
        """Forget the sessions of keys other than the active one: nothing may stand on disk under them any more."""
        for number in [number for number, (key_id, _) in self._sessions.items() if key_id != self.keys.active]:
            db.delete(session_key(number))
            del self._sessions[number]
        wrapped = _decode(db.get(SEAL_KEY), dict[str, bytes], self._name)
        db.put(SEAL_KEY, msgspec.msgpack.encode({self.keys.active: wrapped[self.keys.active]}))

    def _cipher(self, session: int) -> AESGCM:
        key_id, salt = self._sessions[session]
        cipher = self._ciphers[session] = AESGCM(self.keys.derive(key_id, _SESSION, salt))
        return cipher


class StepSeal:
    """Between one step's records and RocksDB."""

    __slots__ = ("_format", "_place", "_seal")

    def __init__(self, seal: ShardSeal, step: str, form: RecordFormat) -> None:
        self._seal = seal
        self._format = form
        self._place = step.encode("ascii") + b"\0"

    def key(self, key: bytes) -> bytes:
        """A record's key on disk."""
        clear = self._format.clear_bytes(key)
        if len(key) <= clear:
            return key
        shown = key[:clear]
        return shown + self._seal.hide(self._place + shown, key[clear:])

    def true_key(self, stored: bytes) -> bytes:
        """The key whose place on disk is `stored`."""
        clear = self._format.clear_bytes(stored)
        if len(stored) <= clear:
            return stored
        shown = stored[:clear]
        return shown + self._seal.show(self._place + shown, stored[clear:])

    def bound(self, bound: bytes) -> bytes:
        """Where a scan begins or ends on disk: clear bytes as they are, "just behind a key" just behind its place.

        Raises:
            StateError: The bound reaches into what is encrypted, where there is no order to go by.
        """
        if len(bound) <= self._format.clear_bytes(bound):
            return bound
        if bound.endswith(b"\0"):
            return self.key(bound[:-1]) + b"\0"
        msg = (
            f"step {self._place[:-1].decode()}: a scan is bounded inside the encrypted part of a key that starts with "
            f"{bound[:1]!r}; declare more clear bytes for it (RecordFormat.clear), or scan by a shorter prefix"
        )
        raise StateError(msg)

    def writes(self, items: Iterable[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes | None]]:
        """Writes as they go to disk; the shard's lock must be held, or nobody else write."""
        made: list[tuple[bytes, bytes | None]] = []
        for key, value in items:
            stored = self.key(key)
            made.append((stored, None if value is None else self.seal(stored, value)))
        return made

    def read(self, family: Any, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of `keys` in a column family, None where there is none."""
        stored = list(map(self.key, keys))
        found = family.get(stored)
        return [None if one is None else self.unseal(key, one) for key, one in zip(stored, found, strict=True)]

    def records(self, stored: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Records read from disk as the step wrote them."""
        return [(self.true_key(key), self.unseal(key, value)) for key, value in stored]

    def seal(self, stored: bytes, value: bytes) -> bytes:
        """A value as it goes to disk under the key on disk `stored`."""
        return self._seal.seal(self._place + stored, value)

    def unseal(self, stored: bytes, record: bytes) -> bytes:
        """The value that stands on disk under `stored`."""
        return self._seal.unseal(self._place + stored, record)


def open_seal(db: Any, name: str, keys: StateKeys | None, *, is_new: bool) -> ShardSeal | None:
    """Begin a session of a shard; None when neither it nor this process has keys.

    Args:
        db: The shard's RocksDB.
        name: The shard's name, for messages.
        keys: The process's keys.
        is_new: Whether the shard was made just now, so that it may become an encrypted one.

    Raises:
        SecretError: Keys are missing or wrong, or the shard is not encrypted and keys are given.
        StateLayoutError: What is kept about its keys cannot be read.
    """
    record = db.get(SEAL_KEY)
    if record is None and keys is None:
        return None
    if keys is None:
        msg = (
            f"shard {name}: it is encrypted under key {_known(name, record)}, and no state keys are given; set "
            "WEIR_STATE_KEYS_FILE or WEIR_STATE_KEYS"
        )
        raise SecretError(msg)
    if record is None and not is_new:
        msg = (
            f"shard {name}: it was written without encryption, and state keys are given; unset WEIR_STATE_KEYS_FILE "
            "and WEIR_STATE_KEYS, or begin a new state directory, which will be encrypted from its start"
        )
        raise SecretError(msg)
    wrapped: dict[str, bytes] = {} if record is None else _decode(record, dict[str, bytes], name)
    sessions: dict[int, tuple[str, bytes]] = {}
    for place, value in _sessions(db):
        key_id, salt = _decode(value, tuple[str, bytes], name)
        sessions[int.from_bytes(place[-4:], "big")] = (key_id, salt)
    lost = sorted({key_id for key_id, _ in sessions.values()} - set(keys.key_ids))
    if lost or (wrapped and not wrapped.keys() & set(keys.key_ids)):
        msg = (
            f"shard {name}: it holds records written under key {', '.join(map(repr, lost or sorted(wrapped)))}, and "
            f"the state keys given are {', '.join(map(repr, keys.key_ids))}; add the missing key to the key file"
        )
        raise SecretError(msg)
    name_key = _unwrap(name, keys, wrapped) if wrapped else os.urandom(_NAME_KEY_BYTES)
    if keys.active not in wrapped:
        wrapped[keys.active] = _wrap(keys, name_key)
        db.put(SEAL_KEY, msgspec.msgpack.encode(wrapped))
    number, salt = max(sessions, default=0) + 1, os.urandom(16)
    sessions[number] = (keys.active, salt)
    db.put(session_key(number), msgspec.msgpack.encode(sessions[number]))
    return ShardSeal(name, keys, AESSIV(name_key), sessions)


def read_seal(db: Any, name: str, keys: StateKeys | None) -> ShardSeal | None:
    """What opens the records of a shard that is only read: no session begins; None when it is not encrypted.

    Raises:
        SecretError: Keys are missing or wrong.
        StateLayoutError: What is kept about its keys cannot be read.
    """
    record = db.get(SEAL_KEY)
    if record is None:
        return None
    if keys is None:
        msg = (
            f"shard {name}: its records are encrypted under key {_known(name, record)}, and no state keys are given; "
            "set WEIR_STATE_KEYS_FILE or WEIR_STATE_KEYS"
        )
        raise SecretError(msg)
    wrapped = _decode(record, dict[str, bytes], name)
    sessions: dict[int, tuple[str, bytes]] = {}
    for place, value in _sessions(db):
        sessions[int.from_bytes(place[-4:], "big")] = _decode(value, tuple[str, bytes], name)
    lost = sorted({key_id for key_id, _ in sessions.values()} - set(keys.key_ids))
    if lost or not wrapped.keys() & set(keys.key_ids):
        msg = (
            f"shard {name}: it holds records written under key {', '.join(map(repr, lost or sorted(wrapped)))}, and "
            f"the state keys given are {', '.join(map(repr, keys.key_ids))}; add the missing key to the key file"
        )
        raise SecretError(msg)
    return ShardSeal(name, keys, AESSIV(_unwrap(name, keys, wrapped)), sessions)


def _wrap(keys: StateKeys, name_key: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)  # a few of these a key: random will do
    return nonce + AESGCM(keys.derive(keys.active, _WRAP)).encrypt(nonce, name_key, keys.active.encode())


def _unwrap(name: str, keys: StateKeys, wrapped: dict[str, bytes]) -> bytes:
    """The name key, opened with every key that can: a wrong secret must not wait until it is the last one left."""
    found = b""
    for key_id in keys.key_ids:
        if key_id not in wrapped:
            continue
        nonce, sealed = wrapped[key_id][:_NONCE_BYTES], wrapped[key_id][_NONCE_BYTES:]
        try:
            found = AESGCM(keys.derive(key_id, _WRAP)).decrypt(nonce, sealed, key_id.encode())
        except InvalidTag:
            msg = (
                f"shard {name}: key {key_id!r} of the state keys is not the one it was encrypted under (another secret "
                "under the same id); give the key file that was used before"
            )
            raise SecretError(msg) from None
    return found


def _sessions(db: Any) -> list[tuple[bytes, bytes]]:
    start, stop = session_range()
    found = []
    for key, value in db.items(from_key=start):
        if key >= stop:
            break
        found.append((key, value))
    return found


def _known(name: str, record: bytes) -> str:
    return ", ".join(map(repr, sorted(_decode(record, dict[str, bytes], name))))


def _decode(record: bytes, form: Any, name: str) -> Any:
    try:
        return msgspec.msgpack.decode(record, type=form)
    except msgspec.MsgspecError as error:
        msg = (
            f"shard {name}: what is kept about its keys cannot be read ({error}); restore a backup "
            "(docs/runbooks/corrupt-shard.md)"
        )
        raise StateLayoutError(msg) from error
