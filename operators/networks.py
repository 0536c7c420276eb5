"""A set of IP networks that answers quickly whether an address lies in one of them.

List file, UTF-8 text: one network a line in CIDR notation (`192.0.2.0/24`, `2001:db8::/32`) or one address; `#` starts
a comment. Bits of an address below its prefix length are ignored. An IPv4 address mapped into IPv6 counts as IPv4.
"""

from __future__ import annotations

import hashlib
import ipaddress
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

from schemas.errors import ProfileError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(text: str) -> Address | None:
    """The address `text` means, an IPv4 one also when it comes mapped into IPv6; None when it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class Networks:
    """Networks as sorted ranges of integers, by IP version; overlapping and adjacent ones are merged.

    Whether an address is inside takes one bisection, whatever prefix lengths there are.
    """

    def __init__(self, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> None:
        ranges: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for network in networks:
            ranges[network.version].append((int(network.network_address), int(network.broadcast_address)))
        self._ranges = {version: _merged(found) for version, found in ranges.items()}

    def __contains__(self, address: Address) -> bool:
        """Whether `address` lies in one of the networks."""
        starts, ends = self._ranges[address.version]
        number = int(address)
        place = bisect_right(starts, number)
        return place > 0 and number <= ends[place - 1]


def load_networks(paths: Iterable[Path]) -> tuple[Networks, str]:
    """Networks of all lists together, and a hash (12 hex digits) of their contents.

    Raises:
        ProfileError: a file cannot be read or a line is not a network; names file, line and value.
    """
    found: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    digest = hashlib.sha256()
    for path in paths:
        try:
            content = path.read_bytes()
            text = content.decode()
        except OSError as error:
            msg = f"{path}: cannot be read ({error.strerror}); expected a list of networks, one a line"
            raise ProfileError(msg) from error
        except UnicodeDecodeError as error:
            msg = f"{path}: is not UTF-8 text: {error}; expected a list of networks, one a line"
            raise ProfileError(msg) from error
        digest.update(hashlib.sha256(content).digest())
        for number, line in enumerate(text.splitlines(), start=1):
            entry = line.partition("#")[0].strip()
            if not entry:
                continue
            try:
                network = ipaddress.ip_network(entry, strict=False)
            except ValueError as error:
                msg = f"{path}: line {number}: found {entry!r}; expected a network such as 192.0.2.0/24"
                raise ProfileError(msg) from error
            found.append(network)
    return Networks(found), digest.hexdigest()[:12]


def _merged(ranges: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Starts and inclusive ends of the union of `ranges`, ascending and disjoint."""
    starts: list[int] = []
    ends: list[int] = []
    for start, end in sorted(ranges):
        if ends and start <= ends[-1] + 1:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
    return starts, ends
