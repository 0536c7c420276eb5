"""Event files: JSON lines, Avro containers, Parquet; the same records in each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import fastavro
import numpy as np
import orjson
import pyarrow
import pyarrow.parquet

from load_tests.traffic.records import Columns
from schemas.codec import contract

FORMATS: Final = ("jsonl", "avro", "parquet")
Record = dict[str, Any]

_PARQUET_TYPES: Final = {
    "string": pyarrow.string(),
    "long": pyarrow.int64(),
    "double": pyarrow.float64(),
    "boolean": pyarrow.bool_(),
}


def to_records(columns: Columns, *, as_text: bool) -> Iterator[Record]:
    """One dict a row, without what is missing; `event_time` as RFC 3339 text, or in µs."""
    if as_text and "event_time" in columns:
        columns = {**columns, "event_time": rfc3339(columns["event_time"])}
    names = tuple(columns)
    return (
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in zip(*columns.values(), strict=True)
    )


def rfc3339(times_us: Iterable[int]) -> list[str]:
    """RFC 3339 UTC with microseconds."""
    stamps = np.array(list(times_us), dtype=np.int64).astype("datetime64[us]")
    return [f"{text}Z" for text in np.datetime_as_string(stamps, unit="us").tolist()]


def encode_line(record: Record | bytes) -> bytes:
    """A record as JSON, or broken text as it is."""
    return record if isinstance(record, bytes) else orjson.dumps(record)


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """One line each."""
    with path.open("wb", buffering=1 << 20) as out:
        out.writelines(line + b"\n" for line in lines)


def write_records(path: Path, name: str, records: list[Record]) -> None:
    """Records of contract `name` with times in µs, as an Avro container or Parquet by the path's suffix."""
    schema = contract(name)
    if path.suffix == ".avro":
        plain = {key: value for key, value in schema.items() if not key.startswith("__")}
        with path.open("wb") as out:
            fastavro.writer(out, fastavro.parse_schema(plain), records, codec="deflate")
        return
    fields = [pyarrow.field(field["name"], _parquet_type(field)) for field in schema["fields"]]
    fields = [field for field in fields if field is not None and field.name != "attributes"]
    table = pyarrow.Table.from_pylist(records, schema=pyarrow.schema(fields))
    pyarrow.parquet.write_table(table, path)


def _parquet_type(field: dict[str, Any]) -> pyarrow.DataType:
    declared = field["type"]
    if isinstance(declared, list):
        declared = next(option for option in declared if option != "null")
    if isinstance(declared, dict):
        if declared.get("logicalType") == "timestamp-micros":
            return pyarrow.timestamp("us", tz="UTC")
        return pyarrow.map_(pyarrow.string(), pyarrow.string())
    return _PARQUET_TYPES[declared]
