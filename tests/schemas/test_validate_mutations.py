"""Whatever the bytes: an event, or a ContractError with a known reason, and a dead letter without card numbers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from schemas.errors import ContractError
from schemas.pan import find_pans
from schemas.reasons import DEAD_LETTER_REASONS
from schemas.redact import redact
from schemas.tokens import TokenKeys
from schemas.validate import INBOUND, decode_avro, decode_json, from_mapping
from tests.schemas.samples import AMEX, MASTERCARD, NOW_US, SAMPLES, VISA, as_avro, as_json

RECORDS = 10_000
KEYS = TokenKeys("k1", {"k1": bytes(range(32))}, {})
PANS = {VISA, AMEX, MASTERCARD}
NASTY: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**64 - 1, int(VISA), 10**16),
    *(0.0, -0.0, 1e308, 5e-324, 1.5, float(VISA)),
    *("", " ", "\x00", "\x1f", "\ud7ff", "a" * 200, "é" * 128, "🂡", "NaN", "EUR", "JPY", "XX", "NL"),
    *(VISA, "4111-1111 1111.1111", AMEX, "٤١١١١١١١١١١١١١١١", f"paid with {MASTERCARD}"),
    *("2026-11-01T12:00:00Z", "2026-11-01T12:00:00.999999999+05:30", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"),
    *("2026-02-30T00:00:00Z", "1999-12-31T23:59:59Z", "2026-11-04T00:00:00Z", "::1", "1.2.3.4", "::ffff:1.2.3.4"),
    *("purchase", "fraud", "chargeback", "opened", "seen", "wallet"),
    *([], [[]], [VISA], {}, {"a": 1}, {"a": "b"}, {"": ""}, {"k" * 99: "v"}, {VISA: f"x{VISA}x"}),
]
LITERALS = [
    *(b"NaN", b"1e999", b"-Infinity", b"1" * 400, b"0.1e-9999", b"-0", b"truee", b"'x'", b"\xef\xbb\xbf"),
    *(b'"\\ud800"', b'"\\u0034111111111111111"', b'"\xff"', b'"\x01"', b"[" * 1500, b'{"a":' * 200, VISA.encode()),
]


def mutate_bytes(payload: bytes, rng: random.Random) -> bytes:
    data = bytearray(payload)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + rng.randint(1, 10)]
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 10))
            case 4:
                del data[at:]
            case 5:
                start = rng.randrange(len(data) + 1)
                data[at:at] = data[start : start + rng.randint(1, 60)]
            case _:
                # A length or a count of anything up to the largest, as a zigzag varint
                data[at:at] = b"\xff" * rng.randint(1, 9) + bytes([rng.randrange(128)])
    return bytes(data)


def mutate_fields(record: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    result = dict(record)
    for _ in range(rng.randint(1, 2)):
        name = rng.choice([*result, "pan", "unknown"])
        if rng.random() < 0.15:
            result.pop(name, None)
        else:
            result[name] = rng.choice(NASTY)
    return result


def mutated_json(name: str, rng: random.Random) -> bytes:
    record = orjson.loads(as_json(SAMPLES[name]))
    roll = rng.random()
    if roll < 0.5:
        return orjson.dumps(mutate_fields(record, rng))
    if roll < 0.7:
        field = rng.choice(list(record))
        return orjson.dumps({**record, field: "@@"}).replace(b'"@@"', rng.choice(LITERALS))
    return mutate_bytes(orjson.dumps(record), rng)


def mutated_avro(name: str, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        record = {**SAMPLES[name], **({"pan": rng.choice([VISA, "4111", None])} if name == "transaction" else {})}
        others: dict[type, list[Any]] = {
            str: [value for value in NASTY if isinstance(value, str)],
            int: [0, -1, 2**63 - 1, -(2**63)],
            float: [float("inf"), float("nan"), -1e308, 91.0],
        }
        for field, value in SAMPLES[name].items():
            if rng.random() < 0.15:
                record[field] = rng.choice(others.get(type(value), [value]))
        return as_avro(name, record)
    return mutate_bytes(as_avro(name, SAMPLES[name]), rng) if rng.random() < 0.9 else rng.randbytes(rng.randrange(80))


def survive(name: str, decode: Callable[[], Any], payload: bytes, tally: Counter[str]) -> None:
    try:
        event = decode()
    except ContractError as error:
        assert error.reason in DEAD_LETTER_REASONS
        assert error.detail
        assert "does not fit its contract" not in error.detail  # every fault is named
        assert not find_pans(str(error).encode(), PANS)
        tally[error.reason] += 1
        if tally.total() % 10 == 0:  # ten times as slow as all the rest
            assert not find_pans(redact(payload).encode(), PANS)
        return
    tally["accepted"] += 1
    assert not find_pans(repr(event).encode(), PANS)
    for field in event.__struct_fields__:  # whatever was accepted can be used as a key and written again
        value = getattr(event, field)
        orjson.dumps(value)
        if isinstance(value, str):
            value.encode()


@pytest.mark.parametrize("name", INBOUND)
def test_no_mutated_json_record_raises_anything_but_a_contract_error(name: str) -> None:
    rng = random.Random(f"json {name}")
    tally: Counter[str] = Counter()
    for _ in range(RECORDS):
        payload = mutated_json(name, rng)
        tokeniser = KEYS if rng.random() < 0.5 else None
        survive(name, lambda p=payload, t=tokeniser: decode_json(name, p, now_us=NOW_US, tokeniser=t), payload, tally)  # type: ignore[misc]
    assert tally["accepted"] > RECORDS / 20
    assert {"NOT_JSON", "MISSING_FIELD", "WRONG_TYPE", "BAD_ID", "BAD_TIME", "PAN_IN_IDENTIFIER"} <= tally.keys(), tally


@pytest.mark.parametrize("name", INBOUND)
def test_no_mutated_avro_record_raises_anything_but_a_contract_error(name: str) -> None:
    rng = random.Random(f"avro {name}")
    tally: Counter[str] = Counter()
    for _ in range(RECORDS):
        payload = mutated_avro(name, rng)
        tokeniser = KEYS if rng.random() < 0.5 else None
        survive(name, lambda p=payload, t=tokeniser: decode_avro(name, p, now_us=NOW_US, tokeniser=t), payload, tally)  # type: ignore[misc]
    assert tally["accepted"] > RECORDS / 50
    assert {"NOT_AVRO", "BAD_ID", "BAD_TIME", "FUTURE_EVENT", "PAN_IN_IDENTIFIER"} <= tally.keys(), tally


@pytest.mark.parametrize("name", INBOUND)
def test_no_mutated_row_raises_anything_but_a_contract_error(name: str) -> None:
    rng = random.Random(f"row {name}")
    tally: Counter[str] = Counter()
    for _ in range(2_000):
        row = mutate_fields(SAMPLES[name], rng)
        survive(name, lambda r=row: from_mapping(name, r, now_us=NOW_US, tokeniser=KEYS), b"", tally)  # type: ignore[misc]
    assert tally["accepted"] > 100
