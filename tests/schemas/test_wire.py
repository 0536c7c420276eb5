from __future__ import annotations

from typing import Any

import orjson

from schemas.codec import encode_avro, read_avro
from schemas.wire import AvroEncoder, Header, Headers, JsonDecoder, JsonEncoder
from tests.schemas.test_codec import OURS


def test_the_answer_to_a_retry_differs_from_its_decision_in_the_mark_alone() -> None:
    decision = {**OURS["decision"], "duplicate": False, "country": '"duplicate":false'}
    encoder = JsonEncoder()
    value, headers = encoder("decision", decision)
    answer = orjson.loads(encoder.as_duplicate(value, headers))
    assert answer == {**orjson.loads(value), "duplicate": True}
    assert JsonDecoder()(value, headers) is value


def test_in_avro_too() -> None:
    def encode(contract: str, record: Any) -> tuple[bytes, list[Header]]:
        return encode_avro(contract, record), [("schema", contract.encode())]

    def decode(value: bytes, headers: Headers) -> dict[str, Any]:
        return read_avro(dict(headers)["schema"].decode(), value)

    encoder = AvroEncoder(encode, decode)
    value, headers = encoder("decision", {**OURS["decision"], "duplicate": False})
    answer = read_avro("decision", encoder.as_duplicate(value, headers))
    assert answer == {**read_avro("decision", value), "duplicate": True}
