"""Event files as streams: .jsonl, .avro and .parquet, readable from any position.

A position is where the next record starts: bytes for .jsonl, records for the other two. Records are numbered from 0;
the number is the `offset` by which decisions and dead letters name their source.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, Protocol

import fastavro
import pyarrow.parquet

from schemas.errors import ConfigError, StreamError

SUFFIXES: Final = (".jsonl", ".avro", ".parquet")
_ROWS_AT_ONCE: Final = 4_096
_TIMES: Final = ("timestamp-micros", "timestamp-millis", "local-timestamp-micros", "local-timestamp-millis")

Record = tuple[bytes | dict[str, Any], int, int]
"""(payload, its number, position behind it)"""


class EventFile(Protocol):
    """One file of one contract's records.

    Attributes:
        path: The file.
        size: Length in the unit of positions.
    """

    path: Path
    size: int

    def read_from(self, position: int, number: int) -> Iterator[Record]:
        """Records from `position` on, the first of which has the given number.

        Raises:
            StreamError: The file cannot be read any further; the message says where.
        """
        ...


class JsonLines:
    """One JSON object a line; empty lines are passed over, a last line without a line end counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size

    def read_from(self, position: int, number: int) -> Iterator[Record]:
        """Lines from byte `position` on."""
        with self.path.open("rb", buffering=1 << 20) as lines:
            lines.seek(position)
            for line in lines:
                position += len(line)
                payload = line.rstrip(b"\r\n")
                if payload:
                    yield payload, number, position
                    number += 1


class AvroContainer:
    """An Avro object container file; read in full up to the position on resume, since blocks are not indexed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as source:
            try:
                self.size = sum(block.num_records for block in fastavro.block_reader(_checked(path, source)))
            except (EOFError, ValueError, TypeError, IndexError) as error:
                message = f"{path}: expected a whole Avro file, found one that is cut short or damaged ({error})"
                raise ConfigError(message) from error

    def read_from(self, position: int, number: int) -> Iterator[Record]:
        """Records from record `position` on."""
        with self.path.open("rb", buffering=1 << 20) as source:
            try:
                for record in itertools.islice(_records(source), position, None):
                    position += 1
                    # Not an object: validation says what was expected instead.
                    yield record if isinstance(record, dict) else {}, number, position
                    number += 1
            except (EOFError, ValueError, TypeError, IndexError, OverflowError) as error:
                message = f"{self.path}: record {position} cannot be read as Avro ({error}); is the file cut short?"
                raise StreamError(message) from error


def _records(source: IO[bytes]) -> Iterator[Any]:
    """The container's records, times as whole microseconds: one outside the calendar is for validation to refuse."""
    plain: Any = None
    millis: list[str] = []
    block: Any  # its attribute bytes_ is documented, and not in the stubs
    for block in fastavro.block_reader(source):
        if plain is None:
            plain = fastavro.parse_schema(_without_times(block.writer_schema))
            millis = _fields_in_millis(block.writer_schema)
        for _ in range(block.num_records):
            record: Any = fastavro.schemaless_reader(block.bytes_, plain, None)
            for name in millis:
                if record[name] is not None:
                    record[name] *= 1_000
            yield record


def _without_times(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_times(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_times(value)
        for key, value in schema.items()
        if not key.startswith("__") and not (key == "logicalType" and value in _TIMES)
    }


def _fields_in_millis(schema: Any) -> list[str]:
    """Fields of the record that hold a time in milliseconds; the contracts have times on the top level only."""
    fields = schema.get("fields", ()) if isinstance(schema, dict) else ()
    return [field["name"] for field in fields if '-millis"' in json.dumps(field["type"]) and _has_time(field["type"])]


def _has_time(of: Any) -> bool:
    if isinstance(of, list):
        return any(map(_has_time, of))
    return isinstance(of, dict) and of.get("logicalType") in _TIMES


class ParquetRows:
    """A Parquet file, a record a row; columns that are null are absent fields."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.size = pyarrow.parquet.ParquetFile(path).metadata.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            message = f"{path}: expected a Parquet file, found something else ({error})"
            raise ConfigError(message) from error

    def read_from(self, position: int, number: int) -> Iterator[Record]:
        """Rows from row `position` on."""
        skip = position
        with pyarrow.parquet.ParquetFile(self.path) as rows:
            for batch in rows.iter_batches(batch_size=_ROWS_AT_ONCE):
                if skip >= batch.num_rows:
                    skip -= batch.num_rows
                    continue
                for row in _rows(batch.slice(skip)):
                    position += 1
                    yield {name: value for name, value in row.items() if value is not None}, number, position
                    number += 1
                skip = 0


def _rows(batch: Any) -> list[dict[str, Any]]:
    """All rows; of one with a value that Python cannot hold, the other values, and what stood there as text."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (ValueError, OverflowError):
        return [{name: _cell(batch.column(name)[at]) for name in batch.schema.names} for at in range(batch.num_rows)]
    return rows


def _cell(cell: Any) -> Any:
    try:
        return cell.as_py()
    except (ValueError, OverflowError):
        return f"unreadable {cell.type}"


def _checked(path: Path, source: io.BufferedReader) -> io.BufferedReader:
    if source.read(4) != b"Obj\x01":
        message = f"{path}: expected an Avro object container file (it starts with 'Obj' and 1), found something else"
        raise ConfigError(message)
    source.seek(0)
    return source


_KINDS: Final[dict[str, Callable[[Path], EventFile]]] = {
    ".jsonl": JsonLines,
    ".avro": AvroContainer,
    ".parquet": ParquetRows,
}


def find_events(directory: Path, name: str) -> EventFile | None:
    """The file of stream `name` in `directory`, None when there is none.

    Raises:
        ConfigError: There are several, so it is unclear which one is meant.
    """
    found = [directory / f"{name}{suffix}" for suffix in SUFFIXES if (directory / f"{name}{suffix}").is_file()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        message = f"{directory}: expected one file of {name}, found {names}; remove all but one"
        raise ConfigError(message)
    return _KINDS[found[0].suffix](found[0]) if found else None
