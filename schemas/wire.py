"""What stands between a record and the bytes of a message: the seam for JSON, Avro and registries.

A decoder makes of a message's value what `schemas.validate` takes: JSON bytes pass as they are, Avro becomes a mapping.
An encoder makes a message's value and headers of a record of ours, times in microseconds. JSON is here; what needs a
registry comes from flows/, since it asks a server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from schemas.codec import encode_json

Header = tuple[str, bytes]
Headers = Sequence[Header]

_ORIGINAL: Final = b'"duplicate":false'
_RETRY: Final = b'"duplicate":true'


class WireDecoder(Protocol):
    """Reads the value of a message of one input stream."""

    def __call__(self, value: bytes, headers: Headers, /) -> bytes | dict[str, Any]:
        """JSON bytes as they are, or the fields of an Avro record, times in microseconds; neither validated yet.

        Called in the flow's own thread for every message: what is not cached must not take longer than a deadline.

        Raises:
            ContractError: The value cannot be read; its reason is one of `schemas.reasons`. Nothing else is raised for
                what a message holds.
            StreamError: A registry cannot be asked now; the flow waits, and tries this very message again.
        """
        ...


class WireEncoder(Protocol):
    """Writes the values of messages of ours.

    Attributes:
        maps_features: Whether `features` comes as a map of name to value, encoded in JSON (orjson.Fragment); False: as
            the contract has it, {"feature_set": id, "values": [...]}.
    """

    maps_features: bool

    def __call__(self, contract: str, record: Mapping[str, Any], /) -> tuple[bytes, list[Header]]:
        """Value and headers of a record of a contract."""
        ...

    def as_duplicate(self, value: bytes, headers: Headers, /) -> bytes:
        """The value of a published decision with its field `duplicate` set, all else unchanged.

        Args:
            value: As this encoder, or the one of an earlier start, wrote it.
            headers: Its headers then.
        """
        ...


class JsonDecoder:
    """Values are JSON."""

    def __call__(self, value: bytes, _headers: Headers, /) -> bytes | dict[str, Any]:
        """The value as it is."""
        return value


class JsonEncoder:
    """Values are JSON; no header is needed to read them."""

    maps_features: bool = True

    def __call__(self, contract: str, record: Mapping[str, Any], /) -> tuple[bytes, list[Header]]:
        """The record's JSON form."""
        return encode_json(contract, record), []

    def as_duplicate(self, value: bytes, _headers: Headers, /) -> bytes:
        """The decision marked as the answer to a retry; the field stands behind all texts from outside."""
        before, found, behind = value.rpartition(_ORIGINAL)
        return before + _RETRY + behind if found else value


class AvroEncoder:
    """Values are Avro, as `encode` writes them; for answers to retries they are read back and written again."""

    maps_features: bool = False

    def __init__(
        self, encode: Callable[[str, Mapping[str, Any]], tuple[bytes, list[Header]]], decode: WireDecoder
    ) -> None:
        """Prepare.

        Args:
            encode: Value and headers of a record of a contract.
            decode: Reads decisions, with the schema that their writer had.
        """
        self._encode = encode
        self._decode = decode

    def __call__(self, contract: str, record: Mapping[str, Any], /) -> tuple[bytes, list[Header]]:
        """The record in Avro, and what a reader needs to know."""
        return self._encode(contract, record)

    def as_duplicate(self, value: bytes, headers: Headers, /) -> bytes:
        """The decision marked as the answer to a retry; one that an earlier start wrote in JSON stays JSON.

        Raises:
            TypeError: `decode` does not make a mapping of it: it is not the decoder of decisions.
        """
        if value[:1] == b"{":
            return JsonEncoder().as_duplicate(value, headers)
        record = self._decode(value, headers)
        if isinstance(record, bytes):
            message = "expected a decoder of Avro, which gives a mapping; found one that gives bytes"
            raise TypeError(message)
        return self._encode("decision", {**record, "duplicate": True})[0]
