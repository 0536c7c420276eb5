from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.networks import Networks, load_networks, parse_address
from schemas.errors import ProfileError

# Few bits, high and low, so that networks overlap, touch and reach both ends of the address space.
V4 = st.builds(lambda high, low: high << 28 | low, st.integers(0, 15), st.integers(0, 15))
V6 = st.builds(lambda high, low: high << 124 | low, st.integers(0, 15), st.integers(0, 15))
NETWORKS = st.lists(
    st.one_of(
        st.builds(lambda ip, bits: ipaddress.IPv4Network((ip, bits), strict=False), V4, st.integers(0, 32)),
        st.builds(lambda ip, bits: ipaddress.IPv6Network((ip, bits), strict=False), V6, st.integers(0, 128)),
    ),
    max_size=8,
)


@settings(max_examples=300)
@given(
    networks=NETWORKS,
    address=st.one_of(V4.map(ipaddress.IPv4Address), V6.map(ipaddress.IPv6Address)),
)
def test_an_address_is_in_when_it_is_in_one_of_the_networks(
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network],
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert (address in Networks(networks)) is any(address in network for network in networks)


def test_addresses_are_read_and_mapped_ones_count_as_ipv4() -> None:
    assert parse_address("192.0.2.1") == ipaddress.IPv4Address("192.0.2.1")
    assert parse_address("::ffff:192.0.2.1") == ipaddress.IPv4Address("192.0.2.1")
    assert parse_address("2001:DB8::1") == ipaddress.IPv6Address("2001:db8::1")
    assert [parse_address(text) for text in ("", "192.0.2", "1.2.3.4.5", "here", "192.0.2.0/24")] == [None] * 5


def test_lists_are_read_together_with_comments_and_loose_notation(tmp_path: Path) -> None:
    first, second = tmp_path / "vpn.txt", tmp_path / "tor.txt"
    first.write_text("# a comment\n\n192.0.2.77/24   # its last bits do not matter\n198.51.100.7\n")
    second.write_text("2001:db8::/32\r\n")
    networks, digest = load_networks([first, second])
    inside = ("192.0.2.0", "192.0.2.255", "198.51.100.7", "2001:db8:ffff::")
    outside = ("192.0.3.0", "192.0.1.255", "198.51.100.8", "2001:db9::")
    assert [parse_address(text) in networks for text in inside] == [True] * 4  # type: ignore[operator]  # all are read
    assert [parse_address(text) in networks for text in outside] == [False] * 4  # type: ignore[operator]
    second.write_text("2001:db8::/33\n")
    assert load_networks([first, second])[1] != digest


@pytest.mark.parametrize("entry", ["example.org", "192.0.2.0/33", "192.0.2.1-192.0.2.9"])
def test_a_line_that_is_no_network_is_refused(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "vpn.txt"
    path.write_text(f"192.0.2.0/24\n{entry}\n")
    with pytest.raises(ProfileError, match=re.escape(f"{path}: line 2: found {entry!r}; expected a network")):
        load_networks([path])


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vpn.txt"
    with pytest.raises(ProfileError, match=r"vpn\.txt: cannot be read \(No such file or directory\)"):
        load_networks([path])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ProfileError, match=r"vpn\.txt: is not UTF-8 text"):
        load_networks([path])
