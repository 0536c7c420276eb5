"""Names of shards, chosen so that they balance over workers, and the shard of a key.

bytewax sends an item to worker SipHash-1-3(key bytes + FF, key 0) mod workers, so the names of the shards decide who
owns them. Of names like 00..63 four workers own 21, 16, 9 and 18. The names below end in five characters searched
such that the hash of name i is i modulo 2,882,880, the least common multiple of 1..16 and 64: over w workers, for any
w up to 16 and for 32 and 64, shard i sits on worker i mod w, and no worker owns two shards more than another.

A name labels a directory and bytewax's recovery data: changing one is a state migration.
"""

from __future__ import annotations

from typing import Final

from xxhash import xxh64_intdigest

from schemas.errors import ConfigError

_MASK: Final = 2**64 - 1

_TABLE: Final = (
    "s00-23sv6 s01-3khbr s02-2qzm1 s03-4mjj7 s04-1znwl s05-d9czn s06-03h84 s07-3mhtx "
    "s08-5r7gg s09-2cmhg s10-9977x s11-85qqc s12-02669 s13-81xd7 s14-0m6c9 s15-0d17z "
    "s16-1z83j s17-27r5c s18-0xncs s19-3x1wp s20-7gx4w s21-054jj s22-2xn0p s23-4shcl "
    "s24-041r4 s25-3jdld s26-5x5d6 s27-0dstc s28-1cq42 s29-0gvln s30-85qhf s31-1c1bf "
    "s32-0nbb7 s33-0pxh0 s34-1fhcp s35-7rplv s36-1b1p5 s37-7kn20 s38-0mspv s39-26kbn "
    "s40-hrdp5 s41-446m6 s42-0mc8w s43-b3926 s44-1tztg s45-3lm92 s46-0ctdw s47-17j93 "
    "s48-0j1xl s49-1d2xw s50-2gkng s51-29h5h s52-2blm4 s53-dwwz8 s54-9qrqz s55-0ztx7 "
    "s56-1m1gd s57-g2gbw s58-2nm54 s59-593jj s60-02gm3 s61-0p5nq s62-32rqc s63-1hq5c "
)
_NAMES: Final = tuple(_TABLE.split())


def shard_names(count: int = 32) -> tuple[str, ...]:
    """The first `count` shard names, in order: number i has the records of the keys whose `shard_of` is i.

    Raises:
        ConfigError: `count` is not within 1..64.
    """
    if not 1 <= count <= len(_NAMES):
        msg = f"shards: expected a count within 1..{len(_NAMES)}, found {count!r}"
        raise ConfigError(msg)
    return _NAMES[:count]


def shard_of(key: bytes, count: int) -> int:
    """Number of the shard that keeps the records of `key`, out of `count`; the same in every process and release."""
    return xxh64_intdigest(key) % count


def worker_of(name: str, workers: int) -> int:
    """Index of the worker, out of `workers`, to which bytewax sends items keyed by `name`."""
    return sip_hash_1_3(name.encode() + b"\xff") % workers


def sip_hash_1_3(message: bytes) -> int:
    """SipHash with 1 compression and 3 finalisation rounds and an all-zero key, as Rust's DefaultHasher has it.

    Source: Aumasson and Bernstein 2012, SipHash: a fast short-input PRF.
    """
    v = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    whole = len(message) - len(message) % 8
    words = [int.from_bytes(message[at : at + 8], "little") for at in range(0, whole, 8)]
    words.append(int.from_bytes(message[whole:], "little") | (len(message) & 0xFF) << 56)
    for word in words:
        a, b, c, d = _sip_round(v[0], v[1], v[2], v[3] ^ word)
        v = (a ^ word, b, c, d)
    v = (v[0], v[1], v[2] ^ 0xFF, v[3])
    for _ in range(3):
        v = _sip_round(*v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _sip_round(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    a = (a + b) & _MASK
    b = _rotated(b, 13) ^ a
    a = _rotated(a, 32)
    c = (c + d) & _MASK
    d = _rotated(d, 16) ^ c
    a = (a + d) & _MASK
    d = _rotated(d, 21) ^ a
    c = (c + b) & _MASK
    b = _rotated(b, 17) ^ c
    c = _rotated(c, 32)
    return a, b, c, d


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK
