"""Can a reader of one Avro schema read what another wrote? The rules of Avro 1.11, "Schema Resolution", as sentences.

Stricter than Avro in one thing: a logical type counts. timestamp-millis read as timestamp-micros resolves in Avro, and
is wrong by a factor of a thousand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = Any

_PROMOTIONS: Final[Mapping[str, frozenset[str]]] = {
    "int": frozenset({"long", "float", "double"}),
    "long": frozenset({"float", "double"}),
    "float": frozenset({"double"}),
    "string": frozenset({"bytes"}),
    "bytes": frozenset({"string"}),
}


def incompatibilities(reader: Schema, writer: Schema) -> list[str]:
    """Why a reader cannot read all that a writer may have written; empty: it can.

    Args:
        reader: Parsed or plain schema of the reading side.
        writer: Of the writing side.

    Returns:
        One sentence a fault: where, what the reader expects, what the writer has.
    """
    faults: list[str] = []
    _compare(reader, writer, _named(reader), _named(writer), "", faults, set())
    return faults


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _named(schema: Schema, found: dict[str, Schema] | None = None) -> dict[str, Schema]:
    """Named types of a schema, by their name without its namespace: Avro matches records by that."""
    found = {} if found is None else found
    if isinstance(schema, list):
        for branch in schema:
            _named(branch, found)
    elif isinstance(schema, dict):
        if schema.get("type") in {"record", "error", "enum", "fixed"}:
            found[_short(schema["name"])] = schema
            for field in schema.get("fields", ()):
                _named(field["type"], found)
        else:
            for key in ("type", "items", "values"):
                _named(schema.get(key), found)
    return found


def _unfold(schema: Schema, names: Mapping[str, Schema]) -> Schema:
    """A type in full: names resolved, {"type": {...}} opened."""
    while True:
        if isinstance(schema, str) and _short(schema) in names:
            schema = names[_short(schema)]
        elif isinstance(schema, dict) and isinstance(schema["type"], dict | list):
            schema = schema["type"]
        elif isinstance(schema, dict) and isinstance(schema["type"], str) and _short(schema["type"]) in names:
            schema = names[_short(schema["type"])]
        else:
            return schema


def _kind(schema: Schema) -> str:
    return "union" if isinstance(schema, list) else str(schema["type"] if isinstance(schema, dict) else schema)


def _logical(schema: Schema) -> str | None:
    return schema.get("logicalType") if isinstance(schema, dict) else None


def _compare(
    reader: Schema,
    writer: Schema,
    reader_names: Mapping[str, Schema],
    writer_names: Mapping[str, Schema],
    where: str,
    faults: list[str],
    seen: set[tuple[str, str]],
) -> None:
    def inner(one: Schema, other: Schema, place: str, into: list[str]) -> None:
        _compare(one, other, reader_names, writer_names, place, into, seen)

    reader, writer = _unfold(reader, reader_names), _unfold(writer, writer_names)
    at = where or "the record"
    if isinstance(writer, list):
        for branch in writer:
            inner(reader, branch, where, faults)
        return
    if isinstance(reader, list):
        for branch in reader:
            attempt: list[str] = []
            _compare(branch, writer, reader_names, writer_names, where, attempt, set(seen))
            if not attempt:
                return
        told = ", ".join(_kind(_unfold(branch, reader_names)) for branch in reader)
        faults.append(f"{at}: expected one of {told}; it is written as {_kind(writer)}")
        return
    reads, writes = _kind(reader), _kind(writer)
    if reads != writes:
        if reads not in _PROMOTIONS.get(writes, ()):
            faults.append(f"{at}: expected {reads}; it is written as {writes}")
            return
    elif reads in {"record", "error", "enum", "fixed"} and _short(reader["name"]) != _short(writer["name"]):
        faults.append(f"{at}: expected the {reads} {reader['name']!r}; it is written as {writer['name']!r}")
        return
    if _logical(reader) != _logical(writer):
        faults.append(
            f"{at}: expected {_logical(reader) or 'no logical type'}; it is written as {_logical(writer) or 'none'}"
        )
    if reads in {"record", "error"}:
        pair = (reader["name"], writer["name"])
        if pair in seen:
            return
        seen.add(pair)
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            place = f"{where}.{field['name']}" if where else field["name"]
            known = [name for name in (field["name"], *field.get("aliases", ())) if name in written]
            if known:
                inner(field["type"], written[known[0]]["type"], place, faults)
            elif "default" not in field:
                faults.append(f"{place}: expected in every record; the writer has no such field and it has no default")
    elif reads == "array":
        inner(reader["items"], writer["items"], f"{where}[]", faults)
    elif reads == "map":
        inner(reader["values"], writer["values"], f"{where}{{}}", faults)
    elif reads == "enum":
        unknown = sorted(set(writer["symbols"]) - set(reader["symbols"]))
        if unknown and "default" not in reader:
            faults.append(f"{at}: the writer may write {unknown}, which the reader does not know")
    elif reads == "fixed" and reader["size"] != writer["size"]:
        faults.append(f"{at}: expected {reader['size']} bytes; it is written as {writer['size']}")
