"""A record → one bare Avro record, by a writer that is made once from the contract's schema.

The bytes are those of fastavro's schemaless_writer, which stays the reference that tests compare with; ADR 0016 says
why it is not used for writing: it finds the branch of a union by validating the value against every branch, in all 250
to 360 µs for a decision with 190 features. Here a value's Python type names its branch, and a long array of optional
numbers is laid out by numpy.

Layout (Avro 1.11): int and long are zigzag varints, double is 8 bytes little-endian, string is a long and UTF-8, a
union is the branch's number as a long and the value, an array or map is its count, its items, and a zero.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

Put = Callable[[bytes], None]
Write = Callable[[Any, Put], None]
Schema = Any

_DOUBLE: Final = struct.Struct("<d").pack
_PYTHON: Final[Mapping[str, tuple[type, ...]]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "int": (int,),
    "long": (int,),
    "double": (float,),
    "string": (str,),
    "array": (list, tuple),
    "map": (dict,),
    "record": (dict,),
}
_BITS: Final = {"int": 31, "long": 63}
# Shorter arrays are done sooner item by item; longer ones by numpy. The two cross between 20 and 40 numbers.
_LONG_ARRAY: Final = 32
# Sequences of types of a long array whose odd places are remembered. A feature set makes a few hundred at most (absent
# words); each keeps 2 KB. Beyond it the places are found anew for each record, 5 µs.
_SHAPES_KEPT: Final = 1024


def zigzag(number: int) -> bytes:
    """A whole number as Avro writes int and long."""
    rest = number << 1 if number >= 0 else ~(number << 1)
    if rest < 0x80:
        return bytes((rest,))
    out = bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


_WORDS: Final = ("string", ["null", "string"])
# Records of texts of which the bytes are kept: versions change with each release, rule hits are as many as rules. Less
# than there are rules, and some are written anew each time (5 µs); at the limit they take 200 KB.
_RECORDS_KEPT: Final = 1024
_SMALL: Final = tuple(zigzag(number) for number in range(1024))


def make_writer(schema: Schema) -> Callable[[Mapping[str, Any]], bytes]:
    """How to write records of a schema.

    Args:
        schema: As `fastavro.parse_schema` gives it, a record; times are plain longs (microseconds).

    Returns:
        Function of a record. Optional fields may be left out; NaN in an optional number is written as null. It raises
        ValueError for a field that the schema lacks, a required one that is missing, or a number out of range;
        TypeError for a value of another type; both name the field.

    Raises:
        ValueError: A type that the contracts do not use (bytes, fixed, enum, float), or a union of two branches that
            one Python type could mean.
    """
    write = _writer(schema, {}, "")

    def encode(record: Mapping[str, Any]) -> bytes:
        pieces: list[bytes] = []
        write(record, pieces.append)
        return b"".join(pieces)

    return encode


def _writer(schema: Schema, names: dict[str, Write], where: str) -> Write:
    if isinstance(schema, list):
        return _union(schema, names, where)
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(kind, dict | list):
        return _writer(kind, names, where)
    if kind == "record":
        return _record(schema, names)
    if kind == "array":
        return _array(schema["items"], names, where)
    if kind == "map":
        return _map(schema["values"], names, where)
    if kind in _BITS:
        return _whole(kind, where)
    simple = {"string": _string, "double": _double, "boolean": _boolean}.get(kind)
    if simple is not None:
        return simple(where)
    if kind in names:
        return names[kind]
    message = f"{where}: no writer for the Avro type {kind!r}; expected one of {sorted(_PYTHON)}"
    raise ValueError(message)


def _wrong(where: str, expected: str, value: object) -> TypeError:
    return TypeError(f"{where}: expected {expected}, got {type(value).__name__}")


def _string(where: str) -> Write:
    def write(value: Any, put: Put) -> None:
        if type(value) is not str:
            raise _wrong(where, "a string", value)
        raw = value.encode()
        length = len(raw)
        put(_SMALL[length] if length < 1024 else zigzag(length))
        put(raw)

    return write


def _optional_string(where: str) -> Write:
    marked = tuple(b"\x02" + length for length in _SMALL)

    def write(value: Any, put: Put) -> None:
        if value is None:
            put(b"\x00")
            return
        if type(value) is not str:
            raise _wrong(where, "a string or None", value)
        raw = value.encode()
        length = len(raw)
        put(marked[length] if length < 1024 else b"\x02" + zigzag(length))
        put(raw)

    return write


def _double(where: str) -> Write:
    def write(value: Any, put: Put) -> None:
        if type(value) is not float and type(value) is not int:
            raise _wrong(where, "a number", value)
        put(_DOUBLE(value))

    return write


def _boolean(where: str) -> Write:
    def write(value: Any, put: Put) -> None:
        if type(value) is not bool:
            raise _wrong(where, "true or false", value)
        put(b"\x01" if value else b"\x00")

    return write


def _whole(kind: str, where: str) -> Write:
    limit = 1 << _BITS[kind]

    def write(value: Any, put: Put) -> None:
        if type(value) is not int:
            raise _wrong(where, "a whole number", value)
        if not -limit <= value < limit:
            message = f"{where}: {value} does not fit an Avro {kind}"
            raise ValueError(message)
        put(_SMALL[value] if 0 <= value < 1024 else zigzag(value))

    return write


def _record(schema: Schema, names: dict[str, Write]) -> Write:
    full_name = schema["name"]
    steps: list[tuple[str, Any, bool, Write]] = []

    def write(value: Any, put: Put) -> None:
        if not isinstance(value, Mapping):
            raise _wrong(full_name, "a mapping", value)
        used = 0
        get = value.get
        for name, default, required, write_field in steps:
            item = get(name, _MISSING)
            if item is _MISSING:
                if required:
                    message = f"{full_name}: field {name} is missing from the record"
                    raise ValueError(message)
                item = default
            else:
                used += 1
            write_field(item, put)
        if used != len(value):
            message = f"{full_name}: the contract has no field {sorted(set(value) - {step[0] for step in steps})}"
            raise ValueError(message)

    names[full_name] = write
    for field in schema["fields"]:
        inner = _writer(field["type"], names, f"{full_name}.{field['name']}")
        steps.append((field["name"], field.get("default"), "default" not in field, inner))
    if all(field["type"] in _WORDS for field in schema["fields"]):
        names[full_name] = _remembered(write)
    return names[full_name]


def _remembered(write: Write) -> Write:
    """Records of texts alone (versions, rule hits) come again and again: their bytes are kept."""
    kept: dict[Any, bytes] = {}

    def write_again(value: Any, put: Put) -> None:
        try:
            key = tuple(value.items())
            known = kept.get(key)
        except (AttributeError, TypeError):
            write(value, put)  # which says what is wrong with it
            return
        if known is None:
            pieces: list[bytes] = []
            write(value, pieces.append)
            known = b"".join(pieces)
            if len(kept) < _RECORDS_KEPT:
                kept[key] = known
        put(known)

    return write_again


_MISSING: Final = object()


def _python_types(branch: Schema, names: dict[str, Write]) -> tuple[str, tuple[type, ...]]:
    kind = branch["type"] if isinstance(branch, dict) else branch
    return ("record", (dict,)) if kind in names else (kind, _PYTHON.get(kind, ()))


def _union(branches: Sequence[Schema], names: dict[str, Write], where: str) -> Write:
    if branches == ["null", "string"]:
        return _optional_string(where)
    by_type: dict[type, tuple[bytes, Write | None]] = {}
    null = None
    numbers = False
    for number, branch in enumerate(branches):
        kind, types = _python_types(branch, names)
        numbers = numbers or kind == "double"
        inner = None if kind == "null" else _writer(branch, names, where)
        if inner is None:
            null = zigzag(number)
        for python in types:
            if python in by_type:
                message = f"{where}: a union in which {python.__name__} may mean two branches cannot be written"
                raise ValueError(message)
            by_type[python] = (zigzag(number), inner)
    if float in by_type and int not in by_type:
        by_type[int] = by_type[float]
    nan_is_null = null if numbers else None

    def write(value: Any, put: Put) -> None:
        chosen = by_type.get(type(value))
        if chosen is None:
            raise _wrong(where, f"one of {[str(branch) for branch in branches]}", value)
        mark, inner = chosen
        if inner is None:
            put(mark)
        elif nan_is_null is not None and value != value:  # noqa: PLR0124 - NaN is what differs from itself
            put(nan_is_null)
        else:
            put(mark)
            inner(value, put)

    return write


def _array(items: Schema, names: dict[str, Write], where: str) -> Write:
    inner = _writer(items, names, where)
    many = _numbers(items, inner) if isinstance(items, list) and {"null", "double"} <= set(map(str, items)) else None

    def write(value: Any, put: Put) -> None:
        if type(value) is not list and type(value) is not tuple:
            raise _wrong(where, "a list", value)
        if value:
            put(zigzag(len(value)))
            if many is not None and len(value) >= _LONG_ARRAY:
                many(value, put)
            else:
                for item in value:
                    inner(item, put)
        put(b"\x00")

    return write


def _numbers(branches: Sequence[Schema], write_one: Write) -> Write:
    """Many values that are mostly numbers, absent ones NaN or None; the others go through `write_one`."""
    null, double = zigzag(branches.index("null")), zigzag(branches.index("double"))
    shapes: dict[tuple[type, ...], list[int]] = {}

    def write(values: Sequence[Any], put: Put) -> None:
        types = tuple(map(type, values))
        shape = shapes.get(types)
        if shape is None:
            shape = [place for place, python in enumerate(types) if python is not float]
            if len(shapes) < _SHAPES_KEPT:
                shapes[types] = shape
        numbers: Sequence[float] = values
        if shape:
            replaced = list(values)
            for place in shape:
                replaced[place] = _NAN
            numbers = replaced
        # One row a value: its mark, which is a pad byte at first, and eight bytes.
        rows = bytearray(struct.pack("<" + "xd" * len(values), *numbers))
        rows[::9] = double * len(values)
        absent = np.flatnonzero(np.isnan(np.frombuffer(rows, dtype=_ROW)["number"]))
        flat = bytes(rows)
        start = 0
        for place in absent.tolist():
            put(flat[start * 9 : place * 9])
            value = values[place]
            if value is None or type(value) is float:
                put(null)
            else:
                write_one(value, put)
            start = place + 1
        put(flat[start * 9 :])

    return write


_NAN: Final = float("nan")
_ROW: Final = np.dtype([("mark", "u1"), ("number", "<f8")])


def _map(values: Schema, names: dict[str, Write], where: str) -> Write:
    write_key = _string(where)
    inner = _writer(values, names, where)

    def write(value: Any, put: Put) -> None:
        if not isinstance(value, Mapping):
            raise _wrong(where, "a mapping", value)
        if value:
            put(zigzag(len(value)))
            for key, item in value.items():
                write_key(key, put)
                inner(item, put)
        put(b"\x00")

    return write
