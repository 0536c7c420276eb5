"""Bytes of a learner made of arrays: plain numbers, no pickle, so that loading them cannot run code.

    magic (4 bytes, the last one is the format's number)
    length of the header (4 bytes, little endian)
    header: JSON, keys sorted; floats as hexadecimal text; under "arrays" [name, type, shape] of each array in order
    the arrays, little endian, row by row
    32 bytes    sha256 of all before

Equal content gives equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import prod
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from schemas.errors import StateLayoutError

Arrays = dict[str, NDArray[Any]]

MOST_BYTES: Final = 512 * 1024 * 1024
"""An artefact beyond this is none of ours (operators/learner_config.py bounds them by far less)."""

_TYPES: Final = ("<i4", "<u4", "<u8", "<f4", "<f8", "|u1")
_DIGEST_BYTES: Final = 32


def pack(magic: bytes, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The artefact: see the module. Floats of the header must be `float.hex` texts already."""
    plain = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    told = {**header, "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in plain.items()]}
    text = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
    body = b"".join([magic, len(text).to_bytes(4, "little"), text, *(array.tobytes() for array in plain.values())])
    return body + hashlib.sha256(body).digest()


def unpack(magic: bytes, artefact: bytes) -> tuple[dict[str, Any], Arrays]:
    """What `pack` was given; the arrays are fresh and may be written to.

    Raises:
        StateLayoutError: another format, cut off or altered; take an intact artefact or start the model anew.
    """
    if artefact[: len(magic)] != magic:
        refuse(f"starts with {artefact[: len(magic)]!r}, expected {magic!r}")
    body, digest = artefact[:-_DIGEST_BYTES], artefact[-_DIGEST_BYTES:]
    if len(artefact) > MOST_BYTES or hashlib.sha256(body).digest() != digest:
        refuse(f"{len(artefact)} bytes whose sha256 is not the one they end with: cut off or altered")
    start = len(magic) + 4
    stop = start + int.from_bytes(body[len(magic) : start], "little")
    header: dict[str, Any] = json.loads(body[start:stop])
    arrays: Arrays = {}
    for name, kind, shape in header.pop("arrays"):
        size = prod(shape)
        if kind not in _TYPES or size < 0 or stop + size * np.dtype(kind).itemsize > len(body):
            refuse(f"array {name!r} of {kind!r} {shape!r} does not fit into it")
        array = np.frombuffer(body, dtype=kind, count=size, offset=stop).reshape(shape)
        stop += array.nbytes
        arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=True)
    if stop != len(body):
        refuse(f"{len(body) - stop} bytes behind its last array")
    return header, arrays


def refuse(found: str) -> NoReturn:
    """Raise the StateLayoutError of an artefact."""
    message = f"model artefact: {found}; restore an intact one, or remove it and let the model learn anew"
    raise StateLayoutError(message)
