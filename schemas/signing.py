"""Signatures of releases: HMAC-SHA-256 over a record's content, by a key with an id, so that keys rotate.

    signature = "hmac-sha256:" key id ":" hex of HMAC-SHA-256(secret, "weir/release/1" 0x00 content)
    content   = JSON of the record without its signature and without its null fields, keys sorted, no blanks

Null fields are left out so that a contract may gain optional fields and old signatures still hold. The file, in TOML:

    active = "2026-11"                # signs; all keys listed verify

    [keys."2026-11"]
    secret = "<base64 of at least 32 random bytes>"

To rotate: add the new key everywhere, make it active, announce the champion again (`weir models promote`), then drop
the old one.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from schemas.errors import SecretError

KEYS_FILE_VARIABLE: Final = "WEIR_MODEL_KEYS_FILE"
KEYS_VARIABLE: Final = "WEIR_MODEL_KEYS"
MIN_SECRET_BYTES: Final = 32
SIGNATURE: Final = "signature"
_SCHEME: Final = "hmac-sha256"
_DOMAIN: Final = b"weir/release/1\x00"


class SigningKeys:
    """Keys that sign and verify; their secrets are shown nowhere.

    Attributes:
        active: Id of the key that signs.
        key_ids: All ids, in order.
    """

    __slots__ = ("_secrets", "active", "key_ids")

    def __init__(self, active: str, secrets: Mapping[str, bytes]) -> None:
        """Take the keys.

        Raises:
            SecretError: `active` names none of them, an id holds a colon, or a secret is too short.
        """
        if active not in secrets:
            msg = f"model keys: active = {active!r} names none of the keys listed: {', '.join(secrets) or 'none'}"
            raise SecretError(msg)
        for key_id, secret in secrets.items():
            if not key_id or ":" in key_id:
                msg = f"model keys: the id {key_id!r} must not be empty, and holds no colon; give another one"
                raise SecretError(msg)
            if len(secret) < MIN_SECRET_BYTES:
                msg = (
                    f"model keys: the secret of key {key_id!r} has {len(secret)} bytes, expected at least "
                    f"{MIN_SECRET_BYTES} random ones (openssl rand -base64 32)"
                )
                raise SecretError(msg)
        self.active = active
        self.key_ids = tuple(secrets)
        self._secrets = dict(secrets)

    def __repr__(self) -> str:
        return f"SigningKeys(active={self.active!r}, key_ids={self.key_ids!r})"

    def __reduce__(self) -> str | tuple[object, ...]:
        msg = "model keys are not pickled: hand each process its file or environment"
        raise TypeError(msg)

    def sign(self, record: Mapping[str, Any]) -> str:
        """The signature of a record of ours (times in microseconds) by the active key."""
        return f"{_SCHEME}:{self.active}:{self._digest(self.active, record)}"

    def fault(self, record: Mapping[str, Any]) -> str | None:
        """What is wrong with a record's signature, in a sentence; None when it holds."""
        signature = record.get(SIGNATURE)
        if not isinstance(signature, str) or not signature:
            return "it bears no signature"
        scheme, _, rest = signature.partition(":")
        key_id, _, digest = rest.rpartition(":")
        if scheme != _SCHEME or not key_id:
            return f"its signature is none of the form {_SCHEME}:KEY:HEX"
        if key_id not in self._secrets:
            return f"it is signed by a key that is not listed here ({key_id!r}; listed: {', '.join(self.key_ids)})"
        if not hmac.compare_digest(digest.encode(), self._digest(key_id, record).encode()):
            return f"its signature by key {key_id!r} is not that of its content: altered, or signed by another secret"
        return None

    def _digest(self, key_id: str, record: Mapping[str, Any]) -> str:
        told = {name: value for name, value in record.items() if name != SIGNATURE and value is not None}
        content = json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        return hmac.digest(self._secrets[key_id], _DOMAIN + content, "sha256").hex()

    @classmethod
    def from_toml(cls, text: str, where: str) -> SigningKeys:
        """Keys from TOML as in the module's docstring.

        Raises:
            SecretError: Anything is missing, unknown, misspelt or too short; the message never holds a secret.
        """
        form = 'expected active = "ID" and tables [keys.ID] with secret = "BASE64", nothing else'
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            msg = f"{where}: not TOML; {form}"
            raise SecretError(msg) from None  # the parser's message may quote the line that holds the secret
        active, tables = content.get("active"), content.get("keys")
        if content.keys() - {"active", "keys"} or not isinstance(active, str) or not isinstance(tables, dict):
            msg = f"{where}: {form}"
            raise SecretError(msg)
        secrets: dict[str, bytes] = {}
        for key_id, table in tables.items():
            if not isinstance(table, dict) or table.keys() != {"secret"} or not isinstance(table["secret"], str):
                msg = f"{where}: [keys.{key_id!r}]: {form}"
                raise SecretError(msg)
            try:
                secrets[key_id] = base64.b64decode(table["secret"], validate=True)
            except (binascii.Error, ValueError):
                msg = f"{where}: secret of key {key_id!r} is not base64"
                raise SecretError(msg) from None
        return cls(active, secrets)

    @classmethod
    def from_file(cls, path: Path) -> SigningKeys:
        """Keys from a TOML file.

        Raises:
            SecretError: The file cannot be read, or see `from_toml`.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{path}: model key file cannot be read ({type(error).__name__}); check the path and its permissions"
            raise SecretError(msg) from None
        return cls.from_toml(text, str(path))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> SigningKeys | None:
        """Keys from WEIR_MODEL_KEYS_FILE (a path) or WEIR_MODEL_KEYS (the TOML itself); None when neither is set.

        Raises:
            SecretError: Both are set, or see `from_toml`.
        """
        path, text = environ.get(KEYS_FILE_VARIABLE), environ.get(KEYS_VARIABLE)
        if path is not None and text is not None:
            msg = f"{KEYS_FILE_VARIABLE} and {KEYS_VARIABLE} are both set; keep one"
            raise SecretError(msg)
        if path is not None:
            return cls.from_file(Path(path))
        return None if text is None else cls.from_toml(text, KEYS_VARIABLE)
