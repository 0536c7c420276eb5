"""Tokenisation of card numbers: a PAN becomes a card_id that nobody can turn back without the key.

    card_id = "card_" + 32 letters a-p, 128 bits of HMAC-SHA-256(card identity key, "weir/card/1" 0x00 digits)

Letters only, so that a token can never look like a card number to anyone's scanner. The card identity key is never
configured itself: each key carries it sealed under its own secret (a first key made by hand has no seal, its secret
yields the identity). So keys rotate and cards keep their identity, and a retired key may be deleted once every process
runs on the next one; docs/adr/0004-pan-tokenisation.md says why, and what this does not protect from. The file:

    active = "2027-01"

    [keys."2026-11"]                  # a first key made by hand: no identity
    secret = "<base64 of at least 32 random bytes>"

    [keys."2027-01"]
    secret = "<base64>"
    identity = "<base64>"             # the card identity key, sealed under this secret

    sealed = 16 bytes nonce | 32 bytes (identity key xor HMAC(secret, "weir/seal/pad/1" 0x00 nonce))
             | 32 bytes HMAC(secret, "weir/seal/tag/1" 0x00 nonce masked)
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from schemas.errors import SecretError

MIN_SECRET_BYTES: Final = 32
KEYS_FILE_VARIABLE: Final = "WEIR_PAN_KEYS_FILE"
KEYS_VARIABLE: Final = "WEIR_PAN_KEYS"

_NONCE_BYTES: Final = 16
_SEALED_BYTES: Final = _NONCE_BYTES + 32 + 32
# 32 random bytes hold fewer than 16 distinct values once in 10^13 draws; a passphrase typed in or a row of zeros does.
_MIN_DISTINCT_BYTES: Final = 16
_LETTERS: Final = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


class CardToken(NamedTuple):
    """What stays of a card number: its identity, the issuer's range and the digits a cardholder recognises."""

    card_id: str
    bin: str
    last4: str


class TokenKeys:
    """The keys of tokenisation, all of which open the same card identity.

    Attributes:
        active: Id of the key in use.
        key_ids: All ids listed, in order.
        identity_check: Public fingerprint of the card identity: state and outputs may carry it, and a process whose
            keys give another one must not touch them.
    """

    __slots__ = ("_card_hmac", "_identity", "_sealed", "_secrets", "active", "identity_check", "key_ids")

    def __init__(self, active: str, keys: Mapping[str, bytes], sealed: Mapping[str, bytes]) -> None:
        """Open the card identity.

        Args:
            active: Id of the key in use.
            keys: Secret by key id, at least 32 bytes each.
            sealed: Sealed identity by key id; a key without one is the first, whose secret yields the identity.

        Raises:
            SecretError: A secret is too short, or does not open its seal, or two keys open different identities.
        """
        if active not in keys:
            msg = f"PAN keys: active = {active!r} names none of the keys listed: {', '.join(keys) or 'none'}"
            raise SecretError(msg)
        for key_id, secret in keys.items():
            _check_secret(key_id, secret)
        opened = {
            key_id: _open(key_id, secret, sealed[key_id]) if key_id in sealed else _derive(secret)
            for key_id, secret in keys.items()
        }
        for key_id, identity in opened.items():
            if not hmac.compare_digest(identity, opened[active]):
                msg = (
                    f"PAN keys: keys {active!r} and {key_id!r} open different card identities, so that cards would "
                    "lose theirs; make a new key with rotated(), which seals the identity under it"
                )
                raise SecretError(msg)
        self.active = active
        self.key_ids = tuple(keys)
        self._secrets = dict(keys)
        self._sealed = dict(sealed)
        self._identity = opened[active]
        self._card_hmac = hmac.new(self._identity, b"weir/card/1\x00", "sha256")
        self.identity_check = hmac.digest(self._identity, b"weir/card-identity-check/1", "sha256").hex()[:16]

    def __repr__(self) -> str:
        return f"TokenKeys(active={self.active!r}, key_ids={self.key_ids!r}, identity_check={self.identity_check!r})"

    def __reduce__(self) -> str | tuple[object, ...]:
        msg = "PAN keys are not pickled: hand each process its file or environment"
        raise TypeError(msg)

    def tokenise(self, pan: str) -> CardToken:
        """Token of a card number.

        Args:
            pan: 12 to 19 ASCII digits (`schemas.pan.pan_digits` makes them).

        Returns:
            card_id (37 characters), the first six and the last four digits: as much as PCI DSS lets anyone keep of a
            card number of any length.
        """
        keyed = self._card_hmac.copy()  # 1.5 µs; starting from the key each time costs 2.5
        keyed.update(pan.encode("ascii"))
        return CardToken("card_" + keyed.digest()[:16].hex().translate(_LETTERS), pan[:6], pan[-4:])

    def rotated(self, key_id: str, secret: bytes | None = None) -> TokenKeys:
        """These keys and a new active one; every card keeps its identity.

        Args:
            key_id: Id of the new key, not used before.
            secret: At least 32 random bytes; drawn from the system when absent.

        Raises:
            SecretError: The id is taken or the secret too short.
        """
        if key_id in self._secrets:
            msg = f"PAN keys: key {key_id!r} exists; give the new key an id of its own"
            raise SecretError(msg)
        secret = secrets.token_bytes(MIN_SECRET_BYTES) if secret is None else secret
        _check_secret(key_id, secret)
        sealed = {**self._sealed, key_id: _seal(secret, self._identity)}
        return TokenKeys(key_id, {**self._secrets, key_id: secret}, sealed)

    def to_toml(self) -> str:
        """The key file that gives these keys. Holds the secrets: write it where only the flows can read it."""
        lines = [f'active = "{_quoted(self.active)}"']
        for key_id, secret in self._secrets.items():
            lines += ["", f'[keys."{_quoted(key_id)}"]', f'secret = "{base64.b64encode(secret).decode()}"']
            if key_id in self._sealed:
                lines.append(f'identity = "{base64.b64encode(self._sealed[key_id]).decode()}"')
        return "\n".join(lines) + "\n"

    @classmethod
    def new(cls, key_id: str) -> TokenKeys:
        """Keys of a new card identity, random and sealed under one random key."""
        secret = secrets.token_bytes(MIN_SECRET_BYTES)
        return cls(key_id, {key_id: secret}, {key_id: _seal(secret, secrets.token_bytes(32))})

    @classmethod
    def from_toml(cls, text: str, where: str) -> TokenKeys:
        """Keys from TOML as in the module's docstring.

        Args:
            text: The TOML.
            where: File or variable, for messages.

        Raises:
            SecretError: Anything is missing, unknown, misspelt or too short; the message never holds a secret.
        """
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            msg = f'{where}: not TOML; expected active = "ID" and tables [keys.ID] with secret = "BASE64"'
            raise SecretError(msg) from None  # the parser's message may quote the line that holds the secret
        active, tables = content.get("active"), content.get("keys")
        unknown = sorted(content.keys() - {"active", "keys"})
        if unknown or not isinstance(active, str) or not isinstance(tables, dict):
            msg = f'{where}: expected active = "ID" and tables [keys.ID], nothing else; unknown: {unknown}'
            raise SecretError(msg)
        keys: dict[str, bytes] = {}
        sealed: dict[str, bytes] = {}
        for key_id, table in tables.items():
            if not isinstance(table, dict) or "secret" not in table or table.keys() - {"secret", "identity"}:
                msg = f"{where}: [keys.{key_id!r}] must hold secret and, but for the first key, identity; nothing else"
                raise SecretError(msg)
            keys[key_id] = _decoded(table["secret"], f"{where}: secret of key {key_id!r}")
            if "identity" in table:
                sealed[key_id] = _decoded(table["identity"], f"{where}: identity of key {key_id!r}")
        return cls(active, keys, sealed)

    @classmethod
    def from_file(cls, path: Path) -> TokenKeys:
        """Keys from a TOML file.

        Raises:
            SecretError: The file cannot be read, or see `from_toml`.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{path}: PAN key file cannot be read ({type(error).__name__}); check the path and its permissions"
            raise SecretError(msg) from None
        return cls.from_toml(text, str(path))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> TokenKeys | None:
        """Keys from WEIR_PAN_KEYS_FILE (a path) or WEIR_PAN_KEYS (the TOML itself); None when neither is set.

        None is a fair answer: a flow without a key decides all payments that carry a card_id, and makes a dead letter
        of one that carries a card number. No key is ever made up: cards would lose their identity at a restart.

        Raises:
            SecretError: Both are set, one is empty, or see `from_toml`.
        """
        path, text = environ.get(KEYS_FILE_VARIABLE), environ.get(KEYS_VARIABLE)
        if path is None and text is None:
            return None
        if path is not None and text is not None:
            msg = f"{KEYS_FILE_VARIABLE} and {KEYS_VARIABLE} are both set; keep one"
            raise SecretError(msg)
        if path is not None:
            return cls.from_file(Path(path))
        return cls.from_toml(text or "", KEYS_VARIABLE)


def _check_secret(key_id: str, secret: bytes) -> None:
    if len(secret) < MIN_SECRET_BYTES:
        msg = (
            f"PAN keys: the secret of key {key_id!r} has {len(secret)} bytes, expected at least {MIN_SECRET_BYTES} "
            "random ones (openssl rand -base64 32)"
        )
        raise SecretError(msg)
    if len(set(secret)) < _MIN_DISTINCT_BYTES:
        msg = f"PAN keys: the secret of key {key_id!r} is not random; make one with: openssl rand -base64 32"
        raise SecretError(msg)


def _decoded(text: object, what: str) -> bytes:
    if not isinstance(text, str):
        msg = f"{what} must be a string of base64"
        raise SecretError(msg)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        msg = f"{what} is not base64"
        raise SecretError(msg) from None


def _quoted(key_id: str) -> str:
    if not key_id.isprintable() or '"' in key_id or "\\" in key_id:
        msg = f"PAN keys: the id {key_id!r} must be printable, without quotes and backslashes"
        raise SecretError(msg)
    return key_id


def _derive(secret: bytes) -> bytes:
    return hmac.digest(secret, b"weir/card-identity/1", "sha256")


def _seal(secret: bytes, identity: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    masked = _masked(secret, nonce, identity)
    return nonce + masked + hmac.digest(secret, b"weir/seal/tag/1\x00" + nonce + masked, "sha256")


def _open(key_id: str, secret: bytes, sealed: bytes) -> bytes:
    nonce, masked, tag = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:-32], sealed[-32:]
    expected = hmac.digest(secret, b"weir/seal/tag/1\x00" + nonce + masked, "sha256")
    if len(sealed) != _SEALED_BYTES or not hmac.compare_digest(tag, expected):
        msg = f"PAN keys: the identity of key {key_id!r} was not sealed under its secret, or was altered"
        raise SecretError(msg)
    return _masked(secret, nonce, masked)


def _masked(secret: bytes, nonce: bytes, block: bytes) -> bytes:
    pad = hmac.digest(secret, b"weir/seal/pad/1\x00" + nonce, "sha256")
    return bytes(a ^ b for a, b in zip(pad, block, strict=True))
