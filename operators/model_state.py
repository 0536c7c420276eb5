"""The bytes of a linear model: plain numbers, no pickle, so that loading an artefact cannot run code.

    b"WLM" format (1 byte, 1)
    length of the header (4 bytes, little endian)
    header: JSON, keys sorted; floats as hexadecimal text, exact to the bit
    cells * 4 bytes     cells learned, rising (int32, little endian)
    cells * 8 bytes     weights (float64, little endian)
    cells * 8 bytes     sums of squared gradients (float64)
    cells * 8 bytes     sums of label weight times count: how often the cell was met (float64)
    32 bytes            sha256 of all before

Equal histories give equal bytes. A cell takes 28 bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Final, NoReturn

import numpy as np

from operators.model_terms import Floats, Ints
from schemas.errors import StateLayoutError

_MAGIC: Final = b"WLM\x01"
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Header:
    """What an artefact says of itself.

    Attributes:
        model_id: As in learning.toml.
        model_version: As in learning.toml.
        config_hash: Hash of the [model] table, defaults filled in.
        feature_set_hash: Hash of the feature set it learned under.
        labels: Labels learned.
        frauds: Of them, fraud.
        weight: Sum of their weights.
        steps: Steps of the optimiser.
        intercept: Of the regression.
    """

    model_id: str
    model_version: str
    config_hash: str
    feature_set_hash: str
    labels: int
    frauds: int
    weight: float
    steps: int
    intercept: float


def pack(header: Header, cells: Ints, weights: Floats, squares: Floats, met: Floats) -> bytes:
    """The artefact: see the module."""
    told: dict[str, Any] = {**asdict(header), "weight": header.weight.hex(), "intercept": header.intercept.hex()}
    told["cells"] = len(cells)
    text = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
    arrays = (cells.astype("<i4"), weights.astype("<f8"), squares.astype("<f8"), met.astype("<f8"))
    body = b"".join([_MAGIC, len(text).to_bytes(4, "little"), text, *(array.tobytes() for array in arrays)])
    return body + hashlib.sha256(body).digest()


def unpack(artefact: bytes) -> tuple[Header, Ints, Floats, Floats, Floats]:
    """What `pack` was given.

    Raises:
        StateLayoutError: another format, cut off or altered; take an intact artefact or start the model anew.
    """
    if artefact[: len(_MAGIC)] != _MAGIC:
        _refuse(f"starts with {artefact[: len(_MAGIC)]!r}, expected {_MAGIC!r}")
    body, digest = artefact[:-_DIGEST_BYTES], artefact[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        _refuse(f"{len(artefact)} bytes whose sha256 is not the one they end with: cut off or altered")
    start = len(_MAGIC) + 4
    stop = start + int.from_bytes(body[len(_MAGIC) : start], "little")
    told = json.loads(body[start:stop])
    cells = told.pop("cells")
    told |= {name: float.fromhex(told[name]) for name in ("weight", "intercept")}
    arrays: list[Any] = []
    for dtype in ("<i4", "<f8", "<f8", "<f8"):
        array = np.frombuffer(body, dtype=dtype, count=cells, offset=stop)
        stop += array.nbytes
        arrays.append(array.astype(array.dtype.newbyteorder("="), copy=True))
    numbers, weights, squares, met = arrays
    return Header(**told), numbers, weights, squares, met


def _refuse(found: str) -> NoReturn:
    message = f"model artefact: {found}; restore an intact one, or remove it and let the model learn anew"
    raise StateLayoutError(message)
