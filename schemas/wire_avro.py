"""Avro on the wire: Confluent's framing by a registry's ids, or bare records named by a fingerprint in a header.

Confluent's framing: one byte 0, the schema's id in four bytes big-endian, one bare Avro record.

Bare: one Avro record; the header `avro-fingerprint` holds the CRC-64-AVRO (Rabin) fingerprint of the writer's schema in
canonical form, sixteen hex digits in the byte order that the Avro specification calls little-endian. 64 bits, and no
cryptography, because it only picks one of the few schemas that this program ships with; nobody gains by a collision.

Readers evolve: a record is read with its writer's schema and resolved to ours. Unknown fields are dropped, new optional
ones take their default. Times stay whole microseconds all the way, so that no value can leave the calendar here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, Protocol

import fastavro
from fastavro.schema import fingerprint as avro_fingerprint
from fastavro.schema import parse_schema, to_parsing_canonical_form

from schemas.codec import contract, encode_avro, fingerprint, plain_contract, without_logical_types
from schemas.compatibility import incompatibilities
from schemas.errors import ContractError
from schemas.reasons import NOT_AVRO, UNKNOWN_CONTRACT

FINGERPRINT_HEADER: Final = "avro-fingerprint"
Schema = Any
Headers = Sequence[tuple[str, bytes]]
_FRAME_BYTES: Final = 5
# Writer schemas remembered, good and bad: a stream has a handful. Without a bound, random ids in a broken topic fill
# the memory.
_SCHEMAS_KEPT: Final = 1024


class SchemaSource(Protocol):
    """Where the schema behind an id is found; `flows.registry` asks a registry."""

    def schema(self, schema_id: int) -> Schema | None:
        """The schema as JSON gives it, or None when no such id exists.

        Raises:
            StreamError: Nobody can say now. The record is not to blame: it is tried again, never a dead letter.
        """
        ...


class _Resolved:
    """A writer's schema, ready to be read as ours."""

    __slots__ = ("fault", "writer")

    def __init__(self, name: str, schema: Schema) -> None:
        self.writer: Schema = None
        self.fault: str | None = None
        try:
            faults = incompatibilities(contract(name), schema)
            if faults:
                self.fault = faults[0]
            else:
                self.writer = parse_schema(without_logical_types(schema), named_schemas={})
        except Exception as error:
            # A registry keeps what it was given; whatever in a foreign schema trips us is a fault of that schema.
            self.fault = f"its schema cannot be used ({type(error).__name__})"


def _read(name: str, resolved: _Resolved, payload: bytes, skip: int, called: str) -> dict[str, Any]:
    if resolved.fault is not None:
        raise ContractError(UNKNOWN_CONTRACT, f"{called} cannot be read as {name}: {resolved.fault}")
    stream = io.BytesIO(payload)
    stream.seek(skip)
    try:
        record = fastavro.schemaless_reader(stream, resolved.writer, plain_contract(name))
    except Exception as error:
        # As in codec.read_avro: anything may come, and its message may quote the payload.
        detail = f"not one {name} record in Avro: {type(error).__name__} after {stream.tell()} of {len(payload)} bytes"
        raise ContractError(NOT_AVRO, detail) from None
    if stream.tell() != len(payload) or not isinstance(record, dict):
        detail = f"not one {name} record in Avro: it ends after {stream.tell()} of {len(payload)} bytes"
        raise ContractError(NOT_AVRO, detail)
    return record


class FramedDecoder:
    """Records in Confluent's framing, as one contract."""

    def __init__(self, name: str, schemas: SchemaSource) -> None:
        self._name = name
        self._schemas = schemas
        self._resolved: dict[int, _Resolved] = {}

    def __call__(self, value: bytes, headers: Headers) -> dict[str, Any]:
        """Fields of one record, times in microseconds; headers are not looked at.

        Raises:
            ContractError: NOT_AVRO, or UNKNOWN_CONTRACT when the schema does not exist or cannot be read as ours.
            StreamError: The registry cannot be asked now: try the record again.
        """
        del headers
        if len(value) < _FRAME_BYTES or value[0] != 0:
            detail = f"{len(value)} bytes, expected a zero byte, four bytes of schema id and a record"
            raise ContractError(NOT_AVRO, detail)
        schema_id = int.from_bytes(value[1:_FRAME_BYTES], "big")
        resolved = self._resolved.get(schema_id)
        if resolved is None:
            schema = self._schemas.schema(schema_id)
            if schema is None:
                raise ContractError(UNKNOWN_CONTRACT, f"schema id {schema_id}: the registry does not know it")
            resolved = _Resolved(self._name, schema)
            if len(self._resolved) < _SCHEMAS_KEPT:
                self._resolved[schema_id] = resolved
        return _read(self._name, resolved, value, _FRAME_BYTES, f"schema id {schema_id}")


class FingerprintDecoder:
    """Bare records, their schema named in a header, as one contract."""

    def __init__(self, name: str, schemas: Sequence[Schema] = ()) -> None:
        """Know this program's contract and its released forms, and `schemas` beside."""
        self._name = name
        self._resolved = {
            schema_fingerprint(schema): _Resolved(name, schema)
            for schema in (*schemas, *released(name).values(), contract(name))
        }

    def __call__(self, value: bytes, headers: Headers) -> dict[str, Any]:
        """Fields of one record, times in microseconds.

        Raises:
            ContractError: NOT_AVRO, or UNKNOWN_CONTRACT when the header is missing or names an unknown schema.
        """
        named = next((content for key, content in headers if key == FINGERPRINT_HEADER), None)
        if named is None:
            raise ContractError(
                UNKNOWN_CONTRACT, f"no header {FINGERPRINT_HEADER}: nothing says how to read the record"
            )
        text = named.decode("ascii", "replace").lower() if isinstance(named, bytes) else ""
        resolved = self._resolved.get(text)
        if resolved is None:
            detail = f"header {FINGERPRINT_HEADER}: not the fingerprint of a {self._name} this program knows"
            raise ContractError(UNKNOWN_CONTRACT, detail)
        return _read(self._name, resolved, value, 0, f"fingerprint {text}")


class FramedEncoder:
    """Records of ours in Confluent's framing."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        """Take the ids that the registry gave to the contracts, by contract."""
        self._frames = {name: b"\x00" + schema_id.to_bytes(4, "big") for name, schema_id in ids.items()}

    def __call__(self, contract: str, record: Mapping[str, Any]) -> tuple[bytes, list[tuple[str, bytes]]]:
        """Value and headers of one message; raises as `encode_avro`, KeyError for a contract without an id."""
        return self._frames[contract] + encode_avro(contract, record), []


class FingerprintEncoder:
    """Records of ours as bare Avro, named by a header."""

    def __call__(self, contract: str, record: Mapping[str, Any]) -> tuple[bytes, list[tuple[str, bytes]]]:
        """Value and headers of one message; raises as `encode_avro`."""
        return encode_avro(contract, record), [(FINGERPRINT_HEADER, _header(contract))]


Decode = Callable[[bytes, Headers], dict[str, Any]]


@cache
def _header(name: str) -> bytes:
    return fingerprint(name).encode()


def schema_fingerprint(schema: Schema) -> str:
    """CRC-64-AVRO of a schema's canonical form, sixteen hex digits."""
    return str(avro_fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


@cache
def released(name: str) -> Mapping[str, Schema]:
    """Released forms of a contract, version to schema; none for a contract that is new."""
    folder = resources.files("schemas") / "released"
    return {
        version.name: json.loads((version / f"{name}.avsc").read_text(encoding="utf-8"))
        for version in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if version.is_dir() and (version / f"{name}.avsc").is_file()
    }
