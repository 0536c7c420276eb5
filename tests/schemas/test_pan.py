from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.pan import find_pans, is_card_number, looks_like_pan, luhn_valid, pan_digits, redact_text

# Numbers that the schemes publish for testing.
CARDS = [
    "4111111111111111",
    "4222222222222",
    "4917610000000000003",
    "5555555555554444",
    "2223003122003222",
    "378282246310005",
    "6011111111111117",
    "30569309025904",
    "3530111333300000",
    "6200000000000005",
    "6759649826438453",
]


def check_digit(digits: str) -> str:
    return next(last for last in "0123456789" if luhn_valid(digits + last))


@pytest.mark.parametrize("card", CARDS)
def test_scheme_test_numbers_are_recognised_everywhere(card: str) -> None:
    assert is_card_number(card)
    assert pan_digits(card) == card
    assert looks_like_pan(card)
    assert looks_like_pan(f"ref:{card}/1")
    assert redact_text(f"card {card}, thanks") == "card [PAN], thanks"
    assert card in find_pans(b"\x00\xff" + card.encode() + b"\x01")


@pytest.mark.parametrize("card", CARDS)
def test_any_single_wrong_digit_is_noticed(card: str) -> None:
    for place in range(len(card)):
        for digit in "0123456789":
            if digit != card[place]:
                assert not luhn_valid(card[:place] + digit + card[place + 1 :])


@pytest.mark.parametrize(
    "number",
    [
        "411111111111111",  # Visa of 15 digits
        "1111111111111117",  # nobody's beginning
        "0000000000000000",
        "9999999999999995",
        "1761955200000003",  # microseconds of a date
        "41111111111111111111",
        "",
    ],
)
def test_numbers_of_no_scheme_are_no_card_numbers(number: str) -> None:
    assert not is_card_number(number)
    assert not looks_like_pan(number)


def test_a_fortieth_of_random_sixteen_digit_numbers_looks_like_a_card() -> None:
    rng = random.Random(7)
    share = sum(is_card_number(f"{rng.randrange(10**16):016d}") for _ in range(20_000)) / 20_000
    assert 0.02 < share < 0.035


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111.1111.1111.1111",
        "4111 - 1111 - 1111 - 1111",
        "3782 822463 10005",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "4111\u00a01111\u20111111\u200b1111",  # no-break space, no-break hyphen, zero-width space
        "".join(chr(0x660 + int(digit)) for digit in CARDS[0]),  # Arabic-Indic digits
        "12 4111111111111111 34",
        "41111111111111111225",  # expiry glued on
        "x4111111111111111y",
    ],
)
def test_free_text_is_blanked_however_the_number_is_written(text: str) -> None:
    redacted = redact_text(f"pay {text} now")
    assert "[PAN]" in redacted
    assert redacted.startswith("pay ")
    assert redacted.endswith(" now")
    assert "1111 1111" not in redacted
    assert "11111111" not in redacted


@pytest.mark.parametrize(
    "text", ["", "hello", "call +31 20 123 4567", "2026-11-01 12:00", "1234567890123456", "4111 1111"]
)
def test_text_without_card_numbers_is_the_same_object(text: str) -> None:
    assert redact_text(text) is text


def test_stretch_of_digits_too_long_to_search_is_blanked_as_a_whole() -> None:
    assert redact_text("a" + "0" * 65 + "b") == "a[PAN]b"
    assert redact_text("a" + "0" * 64 + "b") == "a" + "0" * 64 + "b"
    assert redact_text("9" * 1_000_000) == "[PAN]"


@pytest.mark.parametrize(
    ("identifier", "refused"),
    [
        ("4111-1111-1111-1111", True),
        ("4111 1111-1111.1111", True),
        ("4111_1111_1111_1111", True),
        ("3782-822463-10005", True),
        ("order:4111111111111111:1", True),
        ("4111-1111-1111-1111-99", True),
        ("12-4111-1111-1111-1111", True),
        ("1111-4111-1111-1111-1111", True),
        ("C4111111111111111", False),
        ("4111111111111111C", False),
        ("94111111111111111", False),
        ("41111111-1111-1111-1111-111111111111", False),
        ("4111-11111111-1111", False),
        ("4111111111111112", False),
    ],
)
def test_identifiers_are_refused_for_a_number_that_stands_for_itself(identifier: str, refused: bool) -> None:
    assert looks_like_pan(identifier) is refused


def test_random_uuids_are_never_taken_for_card_numbers() -> None:
    rng = random.Random(11)
    for _ in range(20_000):
        digits = f"{rng.randrange(10**32):032d}"  # the worst of them: no letters at all
        parts = (digits[:8], digits[8:12], "4" + digits[13:16], "8" + digits[17:20], digits[20:])
        assert not looks_like_pan("-".join(parts))


@given(st.text(max_size=40), st.sampled_from(CARDS), st.text(max_size=40), st.sampled_from(["", " ", "-", "."]))
def test_no_planted_number_survives_redaction_or_a_scan(before: str, card: str, after: str, separator: str) -> None:
    planted = separator.join(card[at : at + 4] for at in range(0, len(card), 4))
    text = f"{before}{planted}{after}"
    redacted = redact_text(text)
    assert card not in redacted.replace(separator, "") if separator else card not in redacted
    assert card in find_pans(text.encode("utf-8", "ignore"), {card})
    assert not find_pans(redacted.encode("utf-8", "ignore"), {card})


@given(st.binary(max_size=200))
def test_scan_of_any_bytes_gives_only_card_numbers(data: bytes) -> None:
    assert all(is_card_number(pan) for pan in find_pans(data))


def test_scan_finds_planted_numbers_in_any_packing_and_reports_each_once() -> None:
    for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-16"):
        data = f"a {CARDS[0]} b 3782-822463-10005 c {CARDS[0]}".encode(encoding)
        assert find_pans(data) == [CARDS[0], "378282246310005"]
    assert find_pans(b"9" + CARDS[0].encode() + b"7", {CARDS[0]}) == [CARDS[0]]
    assert find_pans(b"4111111111111112 nothing here") == []


def test_scan_for_given_numbers_reports_no_others() -> None:
    data = " ".join(CARDS).encode()
    assert find_pans(data, {CARDS[3]}) == [CARDS[3]]
    assert find_pans(data, set()) == []


@given(st.from_regex(r"\A[1-9][0-9]{10,17}\Z"))
def test_card_number_field_takes_any_beginning_of_right_length_and_check_digit(body: str) -> None:
    digits = body + check_digit(body)
    assert pan_digits(digits) == digits
    assert pan_digits(f"{digits[:4]} {digits[4:8]}-{digits[8:]}") == digits
    wrong = digits[:-1] + str((int(digits[-1]) + 1) % 10)
    assert pan_digits(wrong) is None


def test_card_number_field_refuses_other_scripts_and_lengths() -> None:
    for text in ("", "4111", "0" * 20, "".join(chr(0xFF10 + int(digit)) for digit in CARDS[0]), "4111111111111111a"):
        assert pan_digits(text) is None
