"""Keys for encrypting state at rest, from a file or the environment: several by id, one of them active.

    active = "2027-01"

    [keys."2026-11"]                  # still opens what was written under it
    secret = "<base64 of at least 32 random bytes: openssl rand -base64 32>"

    [keys."2027-01"]                  # what is written from now on is written under this one
    secret = "<base64>"

The same style as the PAN keys (`schemas.tokens`), without the sealed identity: what must outlive a rotation stands in
each shard, wrapped under every key that was ever active there (`state.seal`). docs/adr/0012-encryption-at-rest.md says
what this protects from.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from schemas.errors import SecretError

MIN_SECRET_BYTES: Final = 32
KEYS_FILE_VARIABLE: Final = "WEIR_STATE_KEYS_FILE"
KEYS_VARIABLE: Final = "WEIR_STATE_KEYS"

# 32 random bytes hold fewer than 16 distinct values once in 10^13 draws; a passphrase typed in or a row of zeros does.
_MIN_DISTINCT_BYTES: Final = 16
_HASH_BYTES: Final = 32


class StateKeys:
    """The keys of a process; never pickled, never shown.

    Attributes:
        active: Id of the key under which is written.
        key_ids: All ids, in the file's order.
    """

    __slots__ = ("_secrets", "active", "key_ids")

    def __init__(self, active: str, secrets: Mapping[str, bytes]) -> None:
        """Check and keep the keys.

        Args:
            active: Id of the key under which is written.
            secrets: Secret by key id, at least 32 random bytes each.

        Raises:
            SecretError: A secret is too short or not random, or `active` names none of them.
        """
        if active not in secrets:
            msg = f"state keys: active = {active!r} names none of the keys listed: {', '.join(secrets) or 'none'}"
            raise SecretError(msg)
        for key_id, secret in secrets.items():
            if len(secret) < MIN_SECRET_BYTES or len(set(secret)) < _MIN_DISTINCT_BYTES:
                msg = (
                    f"state keys: the secret of key {key_id!r} must be at least {MIN_SECRET_BYTES} random bytes, found "
                    f"{len(secret)} bytes, {len(set(secret))} of them distinct; make one with: openssl rand -base64 32"
                )
                raise SecretError(msg)
        self.active = active
        self.key_ids = tuple(secrets)
        self._secrets = dict(secrets)

    def __repr__(self) -> str:
        return f"StateKeys(active={self.active!r}, key_ids={self.key_ids!r})"

    def __reduce__(self) -> str | tuple[object, ...]:
        msg = "state keys are not pickled: hand each process its file or environment"
        raise TypeError(msg)

    def derive(self, key_id: str, purpose: bytes, salt: bytes = b"") -> bytes:
        """32 bytes that follow from the key, a purpose and a salt alone (HKDF-SHA256, RFC 5869, one block).

        Raises:
            KeyError: There is no key of this id.
        """
        extracted = hmac.digest(salt or bytes(_HASH_BYTES), self._secrets[key_id], "sha256")
        return hmac.digest(extracted, purpose + b"\x01", "sha256")

    def check_value(self, key_id: str) -> str:
        """Public fingerprint of a key: tells whether another secret stands under the same id."""
        return self.derive(key_id, b"weir/state/check/1").hex()[:16]

    @classmethod
    def from_toml(cls, text: str, where: str) -> StateKeys:
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
        secrets: dict[str, bytes] = {}
        for key_id, table in tables.items():
            if not isinstance(table, dict) or table.keys() != {"secret"} or not isinstance(table["secret"], str):
                msg = f"{where}: [keys.{key_id!r}] must hold secret, a string of base64, and nothing else"
                raise SecretError(msg)
            try:
                secrets[key_id] = base64.b64decode(table["secret"], validate=True)
            except (binascii.Error, ValueError):
                msg = f"{where}: secret of key {key_id!r} is not base64"
                raise SecretError(msg) from None
        return cls(active, secrets)

    @classmethod
    def from_file(cls, path: Path) -> StateKeys:
        """Keys from a TOML file.

        Raises:
            SecretError: The file cannot be read, or see `from_toml`.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{path}: state key file cannot be read ({type(error).__name__}); check the path and its permissions"
            raise SecretError(msg) from None
        return cls.from_toml(text, str(path))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> StateKeys | None:
        """Keys from WEIR_STATE_KEYS_FILE (a path) or WEIR_STATE_KEYS (the TOML itself); None: state is not encrypted.

        Raises:
            SecretError: Both are set, one is empty, or see `from_toml`.
        """
        path, text = environ.get(KEYS_FILE_VARIABLE), environ.get(KEYS_VARIABLE)
        if path is not None and text is not None:
            msg = f"{KEYS_FILE_VARIABLE} and {KEYS_VARIABLE} are both set; keep one"
            raise SecretError(msg)
        if path is not None:
            return cls.from_file(Path(path))
        return None if text is None else cls.from_toml(text, KEYS_VARIABLE)
