"""Card numbers (PANs): what one looks like, and how to find and blank one in text.

A number is taken for a PAN when it starts like a card's, has a length of that scheme, and its check digit is right
(Luhn, ISO/IEC 7812-1 annex B). A tenth of all numbers pass Luhn, about one in forty of random 16-digit ones passes all
three: that is why identifiers are refused, not rewritten, and why they are judged by a narrower rule than free text.

- Free text (`redact_text`): any stretch of digits, also broken up by spaces, dashes, dots, slashes or underscores,
  also inside of a longer number, also in other scripts' digits. Blanking too much costs nothing there.
- Identifiers (`looks_like_pan`): a number that stands for itself, not touched by letters or further digits, in one
  piece or grouped as on a card (4-4-4-4, 4-6-5). "C4111111111111111" is an id, "order-4111111111111111" is not. Of
  13 digits at least: hardly a card has 12, but the last group of a UUID does.
- Scans (`find_pans`): as free text, over raw bytes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Iterator
from typing import Final

REDACTED: Final = "[PAN]"
MIN_PAN_DIGITS: Final = 12
MAX_PAN_DIGITS: Final = 19

# First and last prefix of a range, and the lengths its cards have. Sources: ISO/IEC 7812 as the schemes publish their
# ranges in their BIN guides; Maestro and RuPay only as far as they do not cover everything that starts with 5 or 6.
_RANGES: Final = (
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),  # Mastercard
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),  # American Express
    ("300", "305", (14, 16, 17, 18, 19)),  # Diners Club
    ("3095", "3095", (14, 16, 17, 18, 19)),  # Diners Club
    ("36", "36", (14, 15, 16, 17, 18, 19)),  # Diners Club
    ("38", "39", (14, 16, 17, 18, 19)),  # Diners Club
    ("3528", "3589", (16, 17, 18, 19)),  # JCB
    ("60", "60", (16,)),  # Discover, RuPay
    ("6011", "6011", (16, 17, 18, 19)),  # Discover
    ("637", "649", (16, 17, 18, 19)),  # Discover, InstaPayment, Maestro
    ("65", "65", (16, 17, 18, 19)),  # Discover, RuPay, Troy, Elo
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
    ("81", "82", (16, 17, 18, 19)),  # UnionPay, RuPay
    ("2200", "2204", (16, 17, 18, 19)),  # Mir
    ("508", "508", (16,)),  # RuPay
    ("5061", "5061", (16, 18, 19)),  # Verve
    ("5018", "5020", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro, Dankort
    ("5038", "5038", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("5893", "5893", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("6304", "6304", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("6759", "6763", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("9792", "9792", (16,)),  # Troy
)


def _lengths_by_prefix() -> list[int]:
    """Bit set of allowed lengths for each of the 10,000 four-digit beginnings."""
    table = [0] * 10_000
    for first, last, lengths in _RANGES:
        bits = sum(1 << length for length in lengths)
        for prefix in range(int(first.ljust(4, "0")), int(last.ljust(4, "9")) + 1):
            table[prefix] |= bits
    return table


_LENGTHS: Final = _lengths_by_prefix()
_SINGLE: Final = {str(digit): digit for digit in range(10)}
_DOUBLED: Final = {str(digit): digit * 2 - (9 if digit > 4 else 0) for digit in range(10)}

# Digits become 0, separators vanish: twelve zeros in a row are what a card number of any writing leaves behind.
_DIGITS_TO_ZERO: Final = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x78 for byte in range(256))
_SEPARATOR_BYTES: Final = b" -._/\t"
_TWELVE_ZEROS: Final = b"0" * MIN_PAN_DIGITS

# At most three characters between two digits: "4111 - 1111" still is one number, a column of figures is not.
_SEPARATORS: Final = r"[ \-._/\t]{0,3}"
_STRETCH: Final = re.compile(rf"[0-9](?:{_SEPARATORS}[0-9]){{{MIN_PAN_DIGITS - 1},}}")
_STANDING_ALONE: Final = re.compile(
    r"(?<![0-9A-Za-z])(?=("
    r"[0-9]{13,19}(?![0-9A-Za-z])"
    r"|[0-9]{4}[ \-._/][0-9]{4}[ \-._/][0-9]{4}([ \-._/])[0-9]{4}(?:[ \-._/][0-9]{1,3})?(?![0-9A-Za-z])"
    r"|[0-9]{4}[ \-._/][0-9]{6}[ \-._/][0-9]{4,5}(?![0-9A-Za-z])"
    r"))"
)
# A stretch of more digits than this is blanked as a whole: it is no text, and trying every window of it costs time.
_LONGEST_SEARCHED: Final = 64


def luhn_valid(digits: str) -> bool:
    """Whether the last of `digits` (ASCII digits only) is the check digit of the others."""
    total = sum(map(_SINGLE.__getitem__, digits[-1::-2])) + sum(map(_DOUBLED.__getitem__, digits[-2::-2]))
    return total % 10 == 0


def is_card_number(digits: str) -> bool:
    """Whether `digits` (ASCII digits only) has a card's beginning, a length of that scheme and a right check digit."""
    length = len(digits)
    if not MIN_PAN_DIGITS <= length <= MAX_PAN_DIGITS:
        return False
    return bool(_LENGTHS[int(digits[:4])] >> length & 1) and luhn_valid(digits)


def pan_digits(text: str) -> str | None:
    """The digits of a card number as a sender may write it, or None when it is none.

    Spaces and dashes are allowed. Any beginning is: the field says that it is a card number, and schemes add ranges.
    """
    digits = text.replace(" ", "").replace("-", "")
    if not (MIN_PAN_DIGITS <= len(digits) <= MAX_PAN_DIGITS and digits.isascii() and digits.isdecimal()):
        return None
    return digits if luhn_valid(digits) else None


def may_hold_pan(text: str | bytes) -> bool:
    """Whether `text` (str, or ASCII bytes) has digits enough in a row for a card number; False is certain."""
    if isinstance(text, str):
        if not text.isascii():
            return True
        text = text.encode("ascii")
    return text.translate(_DIGITS_TO_ZERO, _SEPARATOR_BYTES).find(_TWELVE_ZEROS) >= 0


def looks_like_pan(identifier: str) -> bool:
    """Whether an identifier holds a card number that stands for itself (see the module's docstring)."""
    if len(identifier) <= MIN_PAN_DIGITS or not may_hold_pan(identifier):
        return False
    for match in _STANDING_ALONE.finditer(plain_digits(identifier)):
        digits = "".join(filter(str.isdecimal, match[1]))
        # 4-4-4-4 may be followed by a group that belongs to something else.
        if is_card_number(digits) or (match[2] is not None and is_card_number(digits[:16])):
            return True
    return False


def plain_digits(text: str) -> str:
    """`text` of the same length, with digits of all scripts as 0-9, and all dashes, blanks and invisibles as spaces."""
    if text.isascii():
        return text
    return "".join(char if char.isascii() else _plain(char) for char in text)


def _plain(char: str) -> str:
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    return " " if unicodedata.category(char) in {"Zs", "Pd", "Cf"} else char


def redact_text(text: str, stretch: re.Pattern[str] = _STRETCH) -> str:
    """`text` with every card number in it replaced by "[PAN]"; the same object when there is none.

    Args:
        text: Free text.
        stretch: What counts as one stretch of digits; the default allows a few usual separators between them.
    """
    spans: list[tuple[int, int]] = []
    for start, end in _pan_spans(plain_digits(text), stretch):
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    if not spans:
        return text
    parts: list[str] = []
    position = 0
    for start, end in spans:
        parts += (text[position:start], REDACTED)
        position = end
    parts.append(text[position:])
    return "".join(parts)


def _pan_spans(text: str, stretch: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Start and end of every card number in `text`, by start; they may overlap."""
    for match in stretch.finditer(text):
        places = [place for place in range(match.start(), match.end()) if text[place] in _SINGLE]
        if len(places) > _LONGEST_SEARCHED:
            yield match.span()
            continue
        digits = "".join([text[place] for place in places])
        for first, last in _windows(digits):
            yield places[first], places[last - 1] + 1


def _windows(digits: str) -> Iterator[tuple[int, int]]:
    """Start and end of every card number within `digits`."""
    for start in range(len(digits) - MIN_PAN_DIGITS + 1):
        lengths = _LENGTHS[int(digits[start : start + 4])]
        if lengths == 0:
            continue
        for length in range(MIN_PAN_DIGITS, min(MAX_PAN_DIGITS, len(digits) - start) + 1):
            if lengths >> length & 1 and luhn_valid(digits[start : start + length]):
                yield start, start + length


def find_pans(data: bytes, among: Container[str] | None = None) -> list[str]:
    """Card numbers in raw bytes, each once, in order of first appearance: the scan of stores, outputs and logs.

    Finds them in text of any ASCII-compatible encoding and in UTF-16 and UTF-32, broken up or not, also inside of
    longer numbers. Compressed or packed data must be unpacked first. Long decimals (17-digit floats) and hexadecimal
    hashes contain numbers that merely look like cards' now and then: to prove absence, pass the numbers in question.

    Args:
        data: Bytes of a record, a file, a log.
        among: Report only these (digits only); then nothing that merely looks like a PAN is reported.

    Returns:
        Digits of the card numbers.
    """
    found: dict[str, None] = {}
    for variant in (data, data.replace(b"\x00", b"")) if b"\x00" in data else (data,):
        for match in _STRETCH.finditer(variant.decode("latin-1")):
            digits = "".join(filter(_SINGLE.__contains__, match[0]))
            for start, end in _windows(digits):
                pan = digits[start:end]
                if among is None or pan in among:
                    found[pan] = None
    return list(found)
