"""Writes tiny MaxMind databases: IPv4 only, 24-bit records, so that tests need no data from elsewhere.

Format: MaxMind DB File Format Specification 2.0 (maxmind.github.io/MaxMind-DB): search tree, 16 zero bytes, data, then
the marker and the metadata map.
"""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

Field = str | float | int | bool | dict[str, "Field"] | list["Field"]

Side = int | str | None  # another node, a network's record, nothing


def write_mmdb(path: Path, database_type: str, networks: dict[str, dict[str, Field]], build_epoch: int = 1) -> Path:
    """Write `networks` (IPv4 CIDR, disjoint, to record) as a database."""
    nodes: list[list[Side]] = [[None, None]]
    for cidr in networks:
        network = ipaddress.IPv4Network(cidr)
        at = 0
        for depth in range(network.prefixlen):
            bit = int(network.network_address) >> (31 - depth) & 1
            if depth == network.prefixlen - 1:
                nodes[at][bit] = cidr
                break
            if nodes[at][bit] is None:
                nodes[at][bit] = len(nodes)
                nodes.append([None, None])
            onward = nodes[at][bit]
            assert isinstance(onward, int), "networks overlap"
            at = onward
    data, places = b"", {}
    for cidr, record in networks.items():
        places[cidr] = len(nodes) + 16 + len(data)
        data += _encode(record)
    tree = b""
    for sides in nodes:
        for side in sides:
            number = len(nodes) if side is None else places[side] if isinstance(side, str) else side
            tree += number.to_bytes(3, "big")
    metadata = {
        "binary_format_major_version": _uint16(2),
        "binary_format_minor_version": _uint16(0),
        "build_epoch": _control(9, 8) + build_epoch.to_bytes(8, "big"),
        "database_type": _encode(database_type),
        "description": _encode({"en": "for tests"}),
        "ip_version": _uint16(4),
        "languages": _encode([]),
        "node_count": _encode(len(nodes)),
        "record_size": _uint16(24),
    }
    fields = b"".join(_encode(name) + field for name, field in metadata.items())
    path.write_bytes(tree + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + _control(7, len(metadata)) + fields)
    return path


def _uint16(number: int) -> bytes:
    return _control(5, 2) + number.to_bytes(2, "big")


def _control(kind: int, size: int) -> bytes:
    assert size < 285
    length, more = (size, b"") if size < 29 else (29, bytes((size - 29,)))
    head = bytes((kind << 5 | length,)) if kind <= 7 else bytes((length, kind - 7))
    return head + more


def _encode(field: Field) -> bytes:
    if isinstance(field, bool):
        return _control(14, int(field))
    if isinstance(field, str):
        text = field.encode()
        return _control(2, len(text)) + text
    if isinstance(field, float):
        return _control(3, 8) + struct.pack(">d", field)
    if isinstance(field, int):
        return _control(6, 4) + field.to_bytes(4, "big")
    if isinstance(field, list):
        return _control(11, len(field)) + b"".join(map(_encode, field))
    return _control(7, len(field)) + b"".join(_encode(key) + _encode(value) for key, value in field.items())
